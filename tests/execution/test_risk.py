"""Every refusal by name: the code, the field at fault, its value and what was expected."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from execution.limits import RiskLimits
from execution.model import Account, Price, Reason, Side, TimeInForce
from execution.risk import RiskApproved, RiskRefused, check
from tests.execution.house import BTC, START, Books, House, at, reason

BUY, SELL = Side.BUY, Side.SELL


async def refused(house: House, *request: Any, **more: Any) -> Reason:
    """The reason of a refusal; nothing else may have come of the request."""
    before = [house.books.count(table) for table in ("orders", "trades", "cash_flows")]
    wish = house.order(*request, **more)
    events = await house.send(wish)
    assert len(events) == 1
    answer = await house.ask(wish)
    assert (answer.status, answer.final, answer.trades, answer.order_id) == ("refused", True, (), None)
    assert [house.books.count(table) for table in ("orders", "trades", "cash_flows")] == before
    return reason(answer)


async def test_an_unknown_account(house: House) -> None:
    found = await refused(house, BUY, "1", account="mine")
    assert found == Reason("unknown_account", "account", "mine", "one of: main, margin")


async def test_an_unknown_account_at_the_check_itself(house: House) -> None:
    verdict = check(house.order(BUY, "1", account="x"), house.state, RiskLimits(), START)
    assert verdict == RiskRefused(Reason("unknown_account", "account", "x", "one of: main, margin"))


async def test_an_unknown_symbol(house: House) -> None:
    found = await refused(house, BUY, "1", symbol="XXX-USD")
    assert found == Reason("unknown_symbol", "symbol", "XXX-USD", "a symbol of `fillbook instruments list`")


async def test_a_disabled_symbol(house: House) -> None:
    found = await refused(house, BUY, "1", symbol="OLD-USD")
    assert found == Reason("disabled_symbol", "symbol", "OLD-USD", "a symbol that is enabled for trading")


async def test_a_symbol_in_another_currency_than_the_accounts(house: House) -> None:
    found = await refused(house, BUY, "1", symbol="SAP-EUR")
    assert found == Reason("currency_mismatch", "symbol", "SAP-EUR", "a symbol priced in USD, the account's currency")


@pytest.mark.parametrize(("note", "said"), [(None, ""), ("lunch", " (lunch)")])
async def test_trading_is_halted(house: House, note: str | None, said: str) -> None:
    await house.price("100")
    await house.halt(note)
    found = await refused(house, BUY, "1")
    expected = f"trading resumed; halted by manual:ann at 2026-01-01T10:00:00Z{said}"
    assert found == Reason("trading_halted", "account", "main", expected)


async def test_no_price_was_ever_seen(house: House) -> None:
    found = await refused(house, BUY, "1")
    assert found == Reason("no_price", "symbol", BTC, "a symbol with a price or candle seen by the daemon")


async def test_the_last_price_is_stale(build: Any) -> None:
    house = build(limits=RiskLimits(stale_price=timedelta(seconds=90)))
    await house.open()
    await house.price("100", 0)
    house.clock.advance(at(1.5))
    assert (await house.buy("1")).status == "filled"
    house.clock.advance(at(1.6))
    found = await refused(house, BUY, "1")
    expected = "a price not older than 90 s; the last is of 2026-01-01T10:00:00Z"
    assert found == Reason("stale_price", "symbol", BTC, expected)
    assert (await house.buy("1", limit="90")).status == "accepted", "a limit protects by itself"
    assert (await house.buy("1", decided=2, triggered_by="bot:a")).status == "accepted", "it waits for its candle"


@pytest.mark.parametrize(
    ("wish", "field", "value", "expected"),
    [
        ({"notional": "0.99"}, "notional", "0.99", "at least 1 USD (PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL)"),
        (
            {"quantity": "0.00999999"},
            "quantity",
            "0.00999999",
            "at least 1 USD (PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL)",
        ),
        (
            {"quantity": "0.01", "limit": "99.99"},
            "quantity",
            "0.01",
            "at least 1 USD (PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL)",
        ),
        (
            {"quantity": "1.5", "symbol": "LOT", "limit": "10"},
            "quantity",
            "1.5",
            "at least 2 (PREVIEW_INVALID_BASE_SIZE_TOO_SMALL)",
        ),
    ],
)
async def test_below_the_minimum(house: House, wish: dict[str, str], field: str, value: str, expected: str) -> None:
    await house.price("100")
    assert await refused(house, BUY, **wish) == Reason("below_minimum", field, value, expected)


async def test_exactly_the_minimum_is_enough(house: House) -> None:
    await house.price("100")
    assert (await house.buy(notional="1")).status == "filled"
    assert (await house.buy("0.01")).status == "filled"


async def test_closing_a_whole_position_is_exempt_from_the_minimum(house: House) -> None:
    await house.price("100")
    await house.buy("0.01")
    await house.price("1")
    assert (await house.sell(close=True)).status == "filled"
    assert house.state.held("main", BTC) == 0


@pytest.mark.parametrize(
    ("wish", "field", "value", "expected"),
    [
        ({"notional": "5000.01"}, "notional", "5000.01", "at most 5000 USD"),
        ({"quantity": "50.1"}, "quantity", "50.1", "at most 5000 USD"),
        ({"quantity": "100.5", "symbol": "LOT", "limit": "20"}, "quantity", "100.5", "at most 2000 USD"),
    ],
)
async def test_above_the_maximum(build: Any, wish: dict[str, str], field: str, value: str, expected: str) -> None:
    house = build(limits=RiskLimits(maximum_notional=Decimal(5000)))
    await house.open()
    await house.price("100")
    assert await refused(house, BUY, **wish) == Reason("above_maximum", field, value, expected)
    assert (await house.buy(notional="5000")).status == "filled"


async def test_a_quantity_that_is_not_a_multiple_of_its_increment(house: House) -> None:
    found = await refused(house, BUY, "2.25", symbol="LOT", limit="10")
    assert found == Reason("quantity_increment", "quantity", "2.25", "a multiple of 0.5")


async def test_a_limit_price_that_is_not_a_multiple_of_its_increment(house: House) -> None:
    found = await refused(house, BUY, "2.5", symbol="LOT", limit="10.01")
    assert found == Reason("price_increment", "limit_price", "10.01", "a multiple of 0.05")


@pytest.mark.parametrize(
    ("wish", "field", "value", "cost"),
    [
        ({"notional": "10000.01"}, "notional", "10000.01", "10000.01"),
        ({"quantity": "100.01"}, "quantity", "100.01", "10001"),
        ({"quantity": "200", "limit": "50.01"}, "quantity", "200", "10002"),
    ],
)
async def test_not_enough_cash_to_buy(house: House, wish: dict[str, str], field: str, value: str, cost: str) -> None:
    await house.price("100")
    found = await refused(house, BUY, **wish)
    assert found == Reason("insufficient_cash", field, value, f"a cost of at most 10000 USD, not {cost}")


async def test_cash_that_open_orders_reserve_is_not_there_for_others(house: House) -> None:
    await house.price("100")
    assert (await house.buy("90", limit="99")).status == "accepted"
    found = await refused(house, BUY, notional="1090.01")
    assert found.expected == "a cost of at most 1090 USD, not 1090.01"
    assert (await house.buy(notional="1090")).status == "filled"


@pytest.mark.parametrize(
    ("wish", "field", "value", "expected"),
    [
        ({"quantity": "2.1"}, "quantity", "2.1", "at most 2 BTC-USD"),
        ({"notional": "200.01"}, "notional", "200.01", "at most 200 USD (2 BTC-USD at 100)"),
    ],
)
async def test_not_enough_to_sell(house: House, wish: dict[str, str], field: str, value: str, expected: str) -> None:
    await house.price("100")
    await house.buy("2")
    assert await refused(house, SELL, **wish) == Reason("insufficient_quantity", field, value, expected)


async def test_what_open_sells_reserve_cannot_be_sold_twice(house: House) -> None:
    await house.price("100")
    await house.buy("2")
    assert (await house.sell("1.5", limit="110")).status == "accepted"
    found = await refused(house, SELL, "0.6")
    assert found == Reason("insufficient_quantity", "quantity", "0.6", "at most 0.5 BTC-USD")


async def test_a_margin_account_may_sell_what_it_does_not_hold_and_buy_without_cash(house: House) -> None:
    await house.price("100")
    assert (await house.sell("5", account="margin")).status == "filled"
    assert house.state.held("margin", BTC) == -5
    assert (await house.buy("9", account="margin")).status == "filled"
    assert house.state.cash("margin") == -400


async def test_nothing_to_close(house: House) -> None:
    await house.price("100")
    found = await refused(house, SELL, close=True)
    expected = "a position in BTC-USD that a SELL closes; held 0, free 0"
    assert found == Reason("nothing_to_close", "close", "true", expected)
    await house.buy("2")
    found = await refused(house, BUY, close=True)
    assert found.expected == "a position in BTC-USD that a BUY closes; held 2, free 2"
    await house.sell("2", limit="110")
    found = await refused(house, SELL, close=True)
    assert found.expected == "a position in BTC-USD that a SELL closes; held 2, free 0"


async def test_a_short_position_is_closed_by_a_buy_of_all_of_it(house: House) -> None:
    await house.price("100")
    await house.sell("5", account="margin")
    assert (await house.sell(close=True, account="margin")).status == "refused"
    answer = await house.buy(close=True, account="margin")
    assert answer.trades[0].quantity == 5
    assert house.state.held("margin", BTC) == 0


async def test_a_short_position_is_not_closed_twice(house: House) -> None:
    await house.price("100")
    await house.sell("5", account="margin")
    assert (await house.buy(close=True, account="margin", limit="90")).status == "accepted"
    found = await refused(house, BUY, close=True, account="margin")
    assert found.expected == "a position in BTC-USD that a BUY closes; held -5, free 0"


async def test_a_persons_request_that_was_decided_too_long_ago_is_expired(house: House) -> None:
    await house.price("100", 5)
    found = await refused(house, BUY, "1", decided=3.9, expires_in="60")
    assert found == Reason("expired", "decided_at", "2026-01-01T10:03:54Z", "at most 60 s ago")


async def test_a_persons_request_that_was_decided_in_the_far_future_is_refused(house: House) -> None:
    await house.price("100", 5)
    found = await refused(house, BUY, "1", decided=60)
    assert found == Reason("in_future", "decided_at", "2026-01-01T11:00:00Z", "not long after 2026-01-01T10:05:00Z")


async def test_a_quantity_that_is_the_whole_position_is_exempt_from_the_minimum(house: House) -> None:
    await house.price("100")
    await house.buy("0.02")
    await house.price("10")
    assert (await refused(house, SELL, "0.01")).code == "below_minimum"
    assert (await house.sell("0.02")).status == "filled"


async def test_a_bots_request_waits_for_its_candle_however_late_it_arrives(house: House) -> None:
    await house.price("100", 5)
    answer = await house.buy("1", decided=3, triggered_by="bot:a")
    assert answer.status == "accepted"
    assert house.stored_order(answer.order_id).expires_at is None


async def test_the_tag_decides_nothing_about_waiting(house: House) -> None:
    await house.price("100", 5)
    answer = await house.buy("1", decided=3, waits_for_candle=True, triggered_by="manual:anna")
    assert answer.status == "accepted"
    late = await refused(house, BUY, "1", decided=3.9, expires_in="60", waits_for_candle=False, triggered_by="bot:a")
    assert late.code == "expired"


@pytest.mark.parametrize("seconds", ["-1", "0", "999999999999999999"])
async def test_an_expiry_that_no_order_can_have_is_refused_by_name(house: House, seconds: str) -> None:
    await house.price("100")
    found = await refused(house, BUY, "1", expires_in=seconds)
    assert found == Reason("expiry_out_of_range", "expires_in", seconds, "more than 0 and at most 31536000 seconds")


async def test_the_first_failing_check_names_the_reason(house: House) -> None:
    await house.halt()
    assert (await refused(house, BUY, "1", symbol="XXX")).code == "unknown_symbol"
    assert (await refused(house, BUY, "0.000001")).code == "trading_halted"


class TestTerms:
    """What an approved request becomes."""

    def approved(self, house: House, **wish: Any) -> RiskApproved:
        house.state.prices[BTC] = Price(BTC, Decimal(100), START)
        verdict = check(house.order(BUY, **wish), house.state, RiskLimits(), START)
        assert isinstance(verdict, RiskApproved), verdict
        return verdict

    async def test_a_market_order_is_ioc_and_expires_after_the_default(self, house: House) -> None:
        terms = self.approved(house, notional="50")
        assert (terms.type, terms.time_in_force, terms.quantity, terms.notional) == ("market", "IOC", None, 50)
        assert terms.expires_at == START + timedelta(seconds=60)

    async def test_a_limit_order_is_good_till_cancelled_unless_it_says_otherwise(self, house: House) -> None:
        terms = self.approved(house, quantity="1", limit="90")
        assert (terms.type, terms.time_in_force, terms.expires_at) == ("limit", "GTC", None)
        ioc = self.approved(house, quantity="1", limit="90", time_in_force=TimeInForce.IOC)
        assert (ioc.time_in_force, ioc.expires_at) == ("IOC", START + timedelta(seconds=60))

    async def test_an_expiry_of_its_own_is_kept_to_the_microsecond(self, house: House) -> None:
        terms = self.approved(house, quantity="1", limit="90", expires_in="0.000001")
        assert terms.expires_at == START + timedelta(microseconds=1)


async def test_an_instrument_and_an_account_added_by_another_process_are_known_at_once(
    house: House, books: Books
) -> None:
    from config.instruments import Instrument
    from execution import ledger

    books.do(lambda c: ledger.add_instrument(c, Instrument("NEW-USD")))
    books.do(lambda c: ledger.add_account(c, Account("new"), START))
    await house.price("1", symbol="NEW-USD")
    assert (await house.deposit("10", account="new")).status == "done"
    assert (await house.buy("10", account="new", symbol="NEW-USD")).status == "filled"


async def test_a_bare_refusal_reads_as_a_sentence() -> None:
    assert str(Reason("trading_halted")) == "trading halted"
    assert str(Reason("nothing", "field")) == "nothing: field"
    assert str(Reason("too_big", "quantity", "5", "at most 4")) == "too big: quantity=5: expected at most 4"
