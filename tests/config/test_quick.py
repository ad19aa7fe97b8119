"""Frozen dataclasses that are quickly made: the same as others, but for the time that it takes."""

import copy
import pickle
import timeit
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, make_dataclass, replace

import pytest

from config.quick import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True)
class Quick:
    """Of the fields that the usual one has."""

    name: str
    size: int = 3
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Usual:
    """See `Quick`."""

    name: str
    size: int = 3
    note: str | None = None


def test_it_takes_arguments_as_any_dataclass_does() -> None:
    assert Quick("a") == Quick(name="a", size=3, note=None) == Quick("a", 3)
    assert repr(Quick("a", note="b")) == "Quick(name='a', size=3, note='b')"
    assert hash(Quick("a")) == hash(Quick("a"))


@pytest.mark.parametrize("make", [lambda: Quick(), lambda: Quick("a", 1, None, 2), lambda: Quick("a", colour=1)])  # type: ignore[call-arg]  # what is wrong is the test
def test_wrong_arguments_are_refused(make: Callable[[], Quick]) -> None:
    with pytest.raises(TypeError):
        make()


def test_it_is_frozen_once_it_is_made() -> None:
    made = Quick("a")
    assert type(made) is Quick
    with pytest.raises(FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]  # that it is refused is the test
    with pytest.raises(FrozenInstanceError):
        del made.name
    assert not hasattr(made, "__dict__")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made)), replace])
def test_a_copy_is_equal_and_frozen(again: Callable[[Quick], Quick]) -> None:
    made = again(Quick("a", 7))
    assert made == Quick("a", 7)
    assert type(made) is Quick


def test_it_has_no_subclasses() -> None:
    with pytest.raises(TypeError, match="no subclasses"):
        type("Sub", (Quick,), {})


def test_factories_and_post_init_are_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class WithFactory:
        parts: list[int] = field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class WithMore:
        part: int

        def __post_init__(self) -> None:
            pass

    for cls in (WithFactory, WithMore):
        with pytest.raises(TypeError, match=cls.__name__):
            quickly_made(cls)


def test_it_is_made_more_quickly() -> None:
    names = [f"field_{number}" for number in range(20)]  # five times as quickly: no other load makes up for that
    usual, quick = (make_dataclass("Made", names, frozen=True, slots=True) for _ in range(2))
    quickly_made(quick)

    def seconds(cls: type) -> float:
        return min(timeit.repeat(lambda: cls(*names), number=500, repeat=20))

    assert seconds(quick) < seconds(usual)
