"""What comes from the bus is acknowledged in the end, whatever the storage does: a broker that sends a message
anew only after a reconnect would else send no others once too many are unacknowledged."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from execution.answers import refused
from execution.errors import LeaseLost, StorageUnavailable
from execution.model import Event, Price, Reason
from execution.orders import DeadLetter
from execution.prices import LastPrices
from execution.service import Envelope
from runtime import intake as intake_module
from runtime.bus import MemoryBroker, MemoryBus
from runtime.clock import ReplayClock
from runtime.core import Core
from runtime.follower import LedgerFollower
from runtime.intake import Intake
from runtime.jsondoc import Limits
from runtime.publisher import Outgoing, Publisher
from runtime.topics import Command, Topics
from tests.integration.brokers import PATIENCE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOPICS = Topics("fillbook")
TRADES = TOPICS.request("main", Command.TRADE)
DEPOSITS = TOPICS.request("main", Command.DEPOSIT)


class NoReader:
    """Nothing is read in these tests."""

    def read(self, _query: object) -> None:
        raise AssertionError("somebody read")


class Execution:
    """Takes prices and dead letters; finds no storage the first `failures` times."""

    def __init__(self) -> None:
        self.failures = 0
        self.state = SimpleNamespace(prices=LastPrices())
        self.mistake: Exception | None = None
        self.prices: list[Price] = []
        self.letters: list[DeadLetter] = []
        self.handled: list[str] = []
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.ends: list[asyncio.Future[None]] = []
        self.refusing = False

    def _perhaps(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable("disk I/O error")

    async def on_price(self, price: Price) -> Sequence[Event]:
        """One price."""
        if self.mistake is not None:
            raise self.mistake
        self._perhaps()
        self.state.prices.note_price(price)
        self.prices.append(price)
        return ()

    async def take(self, envelope: Envelope) -> Sequence[Event]:
        """One request; it is stored before anything else may fail."""
        request_id = envelope.request.request_id
        self.handled.append(request_id)
        self._perhaps()
        await self.may_commit.wait()
        if self.ends:
            await self.ends.pop(0)
        if not self.refusing:
            return ()
        return [refused(envelope.request, Reason("storage_unavailable", None, None, "disk I/O error"))]

    async def delivered(self, _delivery: object, _window: int, _taken: object) -> str | None:
        """Nothing is committed yet."""
        return None

    async def bury(self, letter: DeadLetter) -> None:
        """One dead letter."""
        self._perhaps()
        self.letters.append(letter)


class Scene:
    """An intake over a memory broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker, "daemon", [TOPICS.price("BTC-USD"), DEPOSITS, TRADES])
        self.execution = Execution()
        clock = ReplayClock(NOON)
        self.publisher = Publisher(self.bus, TOPICS, clock, limit=10)
        core = Core(
            self.publisher.publish,
            LedgerFollower(NoReader()),  # type: ignore[arg-type]  # nothing is read here
            self.execution,  # type: ignore[arg-type]  # has the methods that are called
            None,
            None,
        )
        self.intake = Intake(
            core,
            NoReader(),  # type: ignore[arg-type]  # as above
            self.bus,
            TOPICS,
            self.publisher,
            clock,
            limits=Limits(10_000, 10),
            kept_bytes=1000,
            max_in_flight=4,
            window=4,
            boot_id="boot",
            future=timedelta(seconds=5),
        )

    def begin_to_say(self) -> None:
        """What the daemon says reaches the broker."""
        self._saying = asyncio.create_task(self.publisher.run())

    def say_no_more(self) -> None:
        """From here on nothing does."""
        self._saying.cancel()

    @property
    def unacknowledged(self) -> int:
        """Messages that the broker still keeps for the daemon."""
        return len(self.broker._sessions["daemon"].unacknowledged)

    async def say(self, topic: str, payload: bytes) -> None:
        """Somebody publishes; returns when the broker may forget it."""
        await self.bus.publish(topic, payload)
        await self.until(lambda: not self.unacknowledged)

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Let everybody work until something holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(intake_module, "_STORAGE_PAUSE", 0)
    made = Scene()
    await made.bus.start()
    running = asyncio.create_task(made.intake.run())
    made.begin_to_say()
    yield made
    made.say_no_more()
    assert not running.done(), running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


PRICE = b'{"price": "100", "time": "2026-01-01T12:00:00Z"}'


async def test_a_price_that_the_storage_does_not_take_is_taken_later(scene: Scene) -> None:
    scene.execution.failures = 3
    await scene.say(TOPICS.price("BTC-USD"), PRICE)
    assert len(scene.execution.prices) == 1


async def test_a_price_that_is_none_is_buried_later(scene: Scene) -> None:
    scene.execution.failures = 3
    await scene.say(TOPICS.price("BTC-USD"), b"garbage")
    assert len(scene.execution.letters) == 1


async def test_a_message_that_fails_while_the_storage_fails_does_not_end_the_daemon(scene: Scene) -> None:
    scene.execution.mistake = KeyError("a mistake")
    scene.execution.failures = 2
    await scene.say(TOPICS.price("BTC-USD"), PRICE)
    (letter,) = scene.execution.letters
    assert letter.reason.code == "internal_error"


DEPOSIT = b'{"amount": "100"}'


async def test_a_request_without_an_id_keeps_the_one_it_was_given_when_it_is_tried_again(scene: Scene) -> None:
    scene.execution.failures = 2
    await scene.say(DEPOSITS, DEPOSIT)
    assert len(scene.execution.handled) == 3
    assert len(set(scene.execution.handled)) == 1
    await scene.say(DEPOSITS, DEPOSIT)
    assert len(set(scene.execution.handled)) == 2, "another message is another request"


async def test_a_redelivery_is_the_same_request_as_its_first_copy_that_is_still_being_worked_on(scene: Scene) -> None:
    scene.execution.may_commit.clear()
    await scene.bus.publish(DEPOSITS, DEPOSIT)
    await scene.until(lambda: len(scene.execution.handled) == 1)
    await scene.bus.drop("cut")
    await scene.bus.start()
    await scene.until(lambda: len(scene.execution.handled) == 2)
    scene.execution.may_commit.set()
    await scene.until(lambda: not scene.unacknowledged)
    assert len(set(scene.execution.handled)) == 1


async def test_a_copy_that_is_tried_again_after_another_one_was_done_is_still_the_same_request(scene: Scene) -> None:
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    scene.execution.ends = [first]
    await scene.bus.publish(DEPOSITS, DEPOSIT)
    await scene.until(lambda: len(scene.execution.handled) == 1)
    await scene.bus.drop("cut")
    await scene.bus.start()
    await scene.until(lambda: not scene.unacknowledged)
    first.set_exception(StorageUnavailable("committed, but what came of it cannot be read"))
    await scene.until(lambda: len(scene.execution.handled) == 3)
    assert len(set(scene.execution.handled)) == 1


async def _refuse_one(scene: Scene, payload: bytes) -> None:
    """A request is refused while nothing leaves the daemon."""
    scene.say_no_more()
    await scene.bus.publish(DEPOSITS, payload)
    await scene.until(lambda: not scene.publisher.idle)
    for _ in range(20):
        await asyncio.sleep(0)


REFUSED = {
    "by the storage": DEPOSIT,
    "for its content": b'{"amount": "none", "request_id": "mine"}',
    "as a letter": b"{",
}


@pytest.mark.parametrize("payload", REFUSED.values(), ids=REFUSED)
async def test_a_refused_request_stays_with_the_broker_until_the_refusal_is_out(scene: Scene, payload: bytes) -> None:
    """A daemon that is killed before that is asked again by the broker; the sender may be unable to ask."""
    scene.execution.refusing = True
    await _refuse_one(scene, payload)
    assert scene.unacknowledged == 1
    scene.begin_to_say()
    await scene.until(lambda: not scene.unacknowledged)
    assert any(b"refused" in said for _, said, _ in scene.broker.published)


async def test_a_refusal_that_had_to_be_dropped_holds_up_nothing(scene: Scene) -> None:
    scene.execution.refusing = True
    await _refuse_one(scene, DEPOSIT)
    for number in range(10):
        scene.publisher.put(Outgoing(f"t/{number}", b"", keep=True))
    await scene.until(lambda: not scene.unacknowledged)


async def test_of_two_refusals_of_one_request_both_are_waited_for(scene: Scene) -> None:
    scene.execution.refusing = True
    await _refuse_one(scene, b'{"amount": "1", "request_id": "mine"}')
    await _refuse_one(scene, b'{"amount": "1", "request_id": "mine"}')
    assert scene.unacknowledged == 2
    scene.begin_to_say()
    await scene.until(lambda: not scene.unacknowledged)


BUY = b'{"symbol": "BTC-USD", "side": "BUY", "quantity": "1"}'


async def test_just_after_a_connect_an_order_waits_for_the_first_price_that_comes_behind_it(scene: Scene) -> None:
    """The embedded broker keeps no order between what it delivers again and what it has retained."""
    await scene.bus.publish(TRADES, BUY)
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.execution.handled == []
    await scene.say(TOPICS.price("BTC-USD"), PRICE)
    await scene.until(lambda: len(scene.execution.handled) == 1)


async def test_an_order_does_not_wait_for_ever_for_a_price_that_nobody_says(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_PRICES", 0.05)
    await scene.say(TRADES, BUY)
    assert len(scene.execution.handled) == 1


async def test_long_after_the_connect_no_order_waits_for_a_first_price(scene: Scene) -> None:
    """Also the first message of all."""
    scene.intake._connected_at -= 3600
    await scene.bus.publish(TRADES, BUY)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(scene.execution.handled) == 1


@pytest.mark.parametrize("payload", [b"garbage", PRICE], ids=["of the market", "of a person"])
async def test_a_stop_while_a_message_waits_for_a_place_leaves_nothing_behind(scene: Scene, payload: bytes) -> None:
    """A coroutine that is never awaited fails a test, and is a warning in a daemon's log."""
    scene.execution.may_commit.clear()
    topic = TOPICS.price("BTC-USD") if payload == b"garbage" else DEPOSITS
    for number in range(4):  # all places
        await scene.bus.publish(DEPOSITS, b'{"amount": "1", "request_id": "%d"}' % number)
    await scene.until(lambda: len(scene.execution.handled) == 4)
    reading = asyncio.create_task(scene.intake._read())
    await scene.bus.publish(topic, payload)
    await scene.until(lambda: bool(scene.intake._slots._waiters))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    gc.collect()
    scene.execution.may_commit.set()


async def _stopped_with_one_under_way() -> tuple[Scene, "asyncio.Future[None]"]:
    """An intake that reads no more, and the future of the answer to a request that it is at."""
    scene = Scene()
    await scene.bus.start()
    running = asyncio.create_task(scene.intake.run())
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    scene.execution.ends = [answer]
    await scene.bus.publish(DEPOSITS, DEPOSIT)
    await scene.until(lambda: len(scene.execution.handled) == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return scene, answer


async def test_a_lease_that_is_lost_while_requests_are_brought_to_their_end_is_told() -> None:
    scene, answer = await _stopped_with_one_under_way()
    ending = asyncio.create_task(scene.intake.drain())
    answer.set_exception(LeaseLost("lease lost: role execution"))
    with pytest.raises(LeaseLost):
        await ending


async def _lose_the_lease_after_the_end() -> None:
    scene, answer = await _stopped_with_one_under_way()
    answer.set_exception(LeaseLost("lease lost: role execution"))
    await scene.until(lambda: not scene.intake._tasks)


async def test_a_lease_that_is_lost_after_the_end_is_no_error_that_nobody_looks_at() -> None:
    """Asyncio complains of one in the log."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    await _lose_the_lease_after_the_end()
    gc.collect()
    assert not complaints
