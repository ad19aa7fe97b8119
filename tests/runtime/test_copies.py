"""Copies that cross the acknowledgement of their message, and messages that only look like copies."""

from runtime.copies import Deliveries

BUY = ("fillbook/v1/main/request/trade", b'{"symbol": "BTC-USD", "side": "BUY", "quantity": "1"}')
OTHER = (BUY[0], BUY[1].replace(b"BUY", b"SELL"))
ELSEWHERE = ("fillbook/v1/second/request/trade", BUY[1])


class Line:
    """A connection whose messages are acknowledged at once, unless they are said to be worked on."""

    def __init__(self) -> None:
        self.deliveries = Deliveries()
        self.working: set[int] = set()
        self.now = 1000.0

    def new(self, packet_id: int, message: tuple[str, bytes] = BUY) -> bool:
        """A message comes without DUP: whether it is taken for a copy."""
        return self.deliveries.is_copy(packet_id, *message, dup=False, unacknowledged=self.working, now=self.now)

    def dup(self, packet_id: int, message: tuple[str, bytes] = BUY) -> bool:
        """A message comes with DUP: whether it is taken for a copy."""
        return self.deliveries.is_copy(packet_id, *message, dup=True, unacknowledged=self.working, now=self.now)


def test_an_acknowledged_message_that_comes_again_under_the_same_or_a_newer_packet_id_is_a_copy() -> None:
    line = Line()
    assert not line.new(7)
    assert line.dup(7)
    assert line.dup(8)
    assert line.dup(200)


def test_what_comes_without_dup_is_never_a_copy() -> None:
    line = Line()
    assert not line.new(7)
    assert not line.new(8)


def test_another_body_or_topic_is_no_copy() -> None:
    line = Line()
    line.new(7)
    assert not line.dup(8, OTHER)
    assert not line.dup(9, ELSEWHERE)


def test_a_message_equal_to_one_that_is_still_being_worked_on_is_no_copy() -> None:
    line = Line()
    line.new(7)
    line.working.add(7)
    assert not line.dup(8)


def test_a_copy_is_known_while_an_equal_message_is_still_being_worked_on() -> None:
    line = Line()
    line.new(7)
    line.new(8)
    line.working.add(8)
    assert line.dup(9)


def test_a_copy_of_a_message_that_had_dup_the_first_time_is_a_copy() -> None:
    line = Line()
    line.new(1, OTHER)
    assert not line.dup(7)
    assert line.dup(71)


def test_what_was_delivered_on_an_earlier_connection_is_no_copy_of_an_equal_message_of_this_one() -> None:
    line = Line()
    line.new(7)
    assert not line.dup(6)


def test_two_equal_messages_that_are_both_redelivered_after_a_reconnect_stay_two() -> None:
    line = Line()
    assert not line.dup(5)
    assert not line.dup(6)
    line.new(7, OTHER)
    assert not line.dup(4)
    assert not line.dup(3)


def test_an_equal_message_that_comes_a_minute_later_is_no_copy_even_with_dup() -> None:
    """Whoever buys the same each day: a daemon that is late gets the order with DUP the first time."""
    line = Line()
    line.new(7)
    line.now += 59
    assert line.dup(8)
    line.now += 2
    assert not line.dup(9)


def test_packet_ids_start_anew_after_65535() -> None:
    line = Line()
    line.new(65_535)
    assert line.dup(1)
    line = Line()
    line.new(1)
    assert not line.dup(65_535)


def test_a_copy_of_a_message_of_an_earlier_connection_is_a_copy_once_packet_ids_of_this_one_are_known() -> None:
    line = Line()
    line.new(9, OTHER)
    assert not line.dup(5)
    assert line.dup(10)


def test_it_remembers_ten_thousand_messages() -> None:
    def after(others: int) -> Line:
        line = Line()
        line.new(1)
        for number in range(others):
            line.new(2 + number, ("t", b"%d" % number))
        return line

    assert after(9_999).dup(10_001)
    assert not after(10_000).dup(10_002)


def test_it_knows_copies_however_many_messages_came() -> None:
    line = Line()
    for number in range(200_000):
        packet_id = number % 65_535 + 1
        line.new(packet_id, ("t", b"%d" % number))
        if number % 5_000 == 0:
            line.new(packet_id % 65_535 + 1)
            assert line.dup((packet_id + 7) % 65_535 + 1)
