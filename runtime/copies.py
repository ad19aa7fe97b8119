"""Copies of a message that cross its acknowledgement, told from messages that are new.

NATS sends again what was not acknowledged within its `ack_wait`. If the acknowledgement is under way at that moment,
the copy comes with DUP, often under a packet id of its own, as if it was another message: a request without an id
would be done twice. A message may come with DUP even the first time, when it had to wait too long in the broker.
(Measured, 2.15.1.)
"""

import hashlib
from collections.abc import Container

_REMEMBERED = 10_000
"""Deliveries of a connection; packet ids start anew at 65,535."""

_SECONDS = 60.0
"""For so long an equal message may be a copy; later it is somebody who wants the same again."""

_EQUAL = 100
"""Deliveries of the same words that are told apart: some that are being worked on, and the last that were."""

_PACKET_IDS = 65_535


class Deliveries:
    """What came on one connection, to know copies of it.

    A message that was delivered on an EARLIER connection comes again with DUP as well, and may be equal to one of
    this connection to the letter: two people buy the same. It keeps the packet id that it had, which is older than
    all that are given on this one.
    """

    def __init__(self) -> None:
        self._packet_ids: dict[bytes, tuple[tuple[int, float], ...]] = {}
        """By digest of topic and payload: packet ids, each with when it came."""
        self._given: int | None = None
        """A packet id that was given on this connection: of its first message without DUP, until that is long ago."""

    def is_copy(
        self, packet_id: int, topic: str, payload: bytes, *, dup: bool, unacknowledged: Container[int], now: float
    ) -> bool:
        """Whether what came now is a copy of a message that was acknowledged on this connection; else notes it.

        `unacknowledged`: packet ids of messages that are still being worked on; a copy of those has the same id.
        `now`: seconds of a clock that does not jump.
        """
        name = hashlib.blake2b(topic.encode() + b"\0" + payload, digest_size=16).digest()
        before = tuple(each for each in self._packet_ids.pop(name, ()) if now - each[1] <= _SECONDS)
        if not dup:
            self._move_on(packet_id)
        copy = dup and any(one not in unacknowledged and self._is_again(packet_id, one) for one, _ in before)
        self._packet_ids[name] = (
            before if copy else (*before[-_EQUAL:], (packet_id, now))
        )  # the newest are at the end
        if len(self._packet_ids) > _REMEMBERED:
            del self._packet_ids[next(iter(self._packet_ids))]
        return copy

    def _move_on(self, packet_id: int) -> None:
        if self._given is None or _age(self._given, packet_id) > 2 * _REMEMBERED:
            self._given = packet_id

    def _is_again(self, packet_id: int, before: int) -> bool:
        """Whether it is the same packet again, or one that was given on this connection, after the other."""
        if packet_id == before:
            return True
        return self._given is not None and _is_newer(packet_id, self._given) and _is_newer(packet_id, before)


def _age(packet_id: int, now: int) -> int:
    return (now - packet_id) % _PACKET_IDS


def _is_newer(packet_id: int, than: int) -> bool:
    return 0 < _age(than, packet_id) < _PACKET_IDS // 2
