"""Our own format: what a file may look like, and what is said of one that may not."""

import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from execution.importers.common import BadRow, FileInvalid, FillRow, Row
from execution.importers.fillbook import FillbookFile
from execution.model import Side

HEADER = "executed_at,symbol,side,quantity,price,fee,fee_asset,order_id,venue_trade_id,triggered_by"
NOON = "2026-01-01T12:00:00Z"


def read(content: str | bytes, name: str = "fills.csv") -> list[Row]:
    data = content.encode() if isinstance(content, str) else content
    return list(FillbookFile(lambda: io.BytesIO(data), name).rows())


def row(text: str, header: str = HEADER) -> Row:
    (found,) = read(f"{header}\n{text}\n")
    return found


def fill(text: str, header: str = HEADER) -> FillRow:
    found = row(text, header)
    assert isinstance(found, FillRow), found
    return found


def faults(found: Row) -> list[tuple[str | None, str | None]]:
    assert isinstance(found, BadRow), found
    return [(fault.field, fault.value) for fault in found.faults]


def test_a_full_row_is_taken_as_it_stands() -> None:
    assert fill(f"{NOON},BTC-USD,buy,0.50,30000,1.5,BNB,o-1,t-1,bot:rsi") == FillRow(
        2, datetime(2026, 1, 1, 12, tzinfo=UTC), "BTC-USD", Side.BUY, Decimal("0.5"), Decimal(30000), Decimal("1.5"),
        "BNB", "o-1", "t-1", "bot:rsi",
    )  # fmt: skip


def test_columns_come_in_any_order_and_those_after_the_price_may_be_missing() -> None:
    found = fill(f"30000,0.5,SELL,BTC-USD,{NOON}", "Price,quantity, side,product_id,EXECUTED_AT")
    assert (found.side, found.price, found.fee, found.fee_asset, found.order_id) == (
        Side.SELL, Decimal(30000), Decimal(0), None, None,
    )  # fmt: skip


def test_bom_crlf_quotes_and_blank_lines_make_no_difference() -> None:
    text = f'\ufeff{HEADER}\r\n\r\n{NOON},"BTC-USD",BUY,"1",2,,,"a,""b""",,\r\n'
    (found,) = read(text)
    assert isinstance(found, FillRow)
    assert (found.line, found.order_id) == (3, 'a,"b"')


def test_json_lines_have_the_same_keys_whatever_the_file_is_called() -> None:
    line = f'{{"executed_at":"{NOON}","product_id":"BTC-USD","side":"BUY","quantity":"1","price":"2","fee":null}}'
    for name in ("fills.jsonl", "fills.csv"):
        (found,) = read(line + "\n", name)
        assert isinstance(found, FillRow)
        assert found.quantity == 1


def test_a_json_number_is_refused_with_what_to_write_instead() -> None:
    (found,) = read(f'{{"executed_at":"{NOON}","symbol":"BTC-USD","side":"BUY","quantity":50,"price":"2"}}')
    assert isinstance(found, BadRow)
    assert found.faults[0].field == "quantity"
    assert 'write "50"' in found.faults[0].expected


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '"x"', '{"quantity":"1","quantity":"2"}', '{"foo":"1"}', '{"symbol":["A"]}', "{}", "[" * 5000],
)
def test_a_line_of_json_that_cannot_be_taken_is_one_bad_row(line: str) -> None:
    good = f'{{"executed_at":"{NOON}","symbol":"BTC-USD","side":"BUY","quantity":"1","price":"2"}}'
    first, second = read(f"{good}\n{line}\n", "fills.jsonl")
    assert isinstance(first, FillRow)
    assert isinstance(second, BadRow)
    assert second.line == 2


def test_a_time_without_its_zone_is_an_error_that_says_so() -> None:
    found = row("2026-01-01T12:00:00,BTC-USD,BUY,1,2,,,,,")
    assert isinstance(found, BadRow)
    assert str(found.faults[0]) == (
        "line 2: executed_at: a time with its zone, such as 2026-01-01T12:00:00Z for UTC, not '2026-01-01T12:00:00'"
    )


def test_a_zone_is_taken_into_account() -> None:
    assert fill("2026-01-01T13:00:00.5+01:00,BTC-USD,BUY,1,2,,,,,").executed_at == datetime(
        2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (f"{NOON},btc usd,BUY,1,2,,,,,", "symbol", "btc usd"),
        (f"{NOON},BTC-USD,HOLD,1,2,,,,,", "side", "HOLD"),
        (f"{NOON},BTC-USD,BUY,0,2,,,,,", "quantity", "0"),
        (f"{NOON},BTC-USD,SELL,-1,2,,,,,", "quantity", "-1"),
        (f"{NOON},BTC-USD,BUY,1e-8,2,,,,,", "quantity", "1e-8"),
        (f"{NOON},BTC-USD,BUY,1_000,2,,,,,", "quantity", "1_000"),
        (f"{NOON},BTC-USD,BUY,0.1234567890123456789,2,,,,,", "quantity", "0.1234567890123456789"),
        (f"{NOON},BTC-USD,BUY,\u0661,2,,,,,", "quantity", "\u0661"),
        (f'{NOON},BTC-USD,BUY,1,"2,5",,,,,', "price", "2,5"),
        (f"{NOON},BTC-USD,BUY,1,NaN,,,,,", "price", "NaN"),
        (f"{NOON},BTC-USD,BUY,1,-1,,,,,", "price", "-1"),
        (f"{NOON},BTC-USD,BUY,1,2,x,,,,", "fee", "x"),
        (f"{NOON},BTC-USD,BUY,1,2,1,bnb,,,", "fee_asset", "bnb"),
        (f"{NOON},BTC-USD,BUY,1,2,,,a\tb,,", "order_id", "a\tb"),
        (f"{NOON},BTC-USD,BUY,1,2,,,,,me", "triggered_by", "me"),
        (f"{NOON},BTC-USD,BUY,1,2,,,,,bot:", "triggered_by", "bot:"),
        (f"{NOON},BTC-USD,BUY", "quantity", None),
        ("32.01.2026,BTC-USD,BUY,1,2,,,,,", "executed_at", "32.01.2026"),
    ],
)
def test_a_fault_names_line_field_and_value(text: str, field: str, value: str | None) -> None:
    found = row(text)
    assert (field, value) in faults(found)
    assert isinstance(found, BadRow)
    assert all(fault.line == 2 and fault.expected for fault in found.faults)


def test_all_faults_of_a_row_are_told_at_once() -> None:
    found = faults(row("yesterday,BTC-USD,HOLD,0,2,,,,,"))
    assert [field for field, _ in found] == ["executed_at", "side", "quantity"]


def test_every_form_of_triggered_by_is_taken() -> None:
    tags = ("bot:a-1", "stop:a", "manual", "manual:Jo.e", "sync", "import:kraken", "external")
    assert [fill(f"{NOON},BTC-USD,BUY,1,2,,,,,{tag}").triggered_by for tag in tags] == list(tags)


def test_a_negative_fee_is_a_rebate() -> None:
    assert fill(f"{NOON},BTC-USD,BUY,1,2,-0.5,,,,").fee == Decimal("-0.5")


def test_a_broken_quote_costs_its_own_row_only() -> None:
    good = f"{NOON},BTC-USD,BUY,1,2,,,,,"
    found = read(f'{HEADER}\n{NOON},"BTC-USD,BUY,1,2\n{good}\n')
    assert [type(each) for each in found] == [BadRow, FillRow]


def test_too_many_fields_are_a_fault_unless_they_are_empty() -> None:
    assert faults(row(f"{NOON},BTC-USD,BUY,1,2,,,,,,surplus")) == [(None, None)]
    assert fill(f"{NOON},BTC-USD,BUY,1,2,,,,,,,").quantity == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (f"{NOON},BTC-USD,BUY,1,2\n".encode(), "a header with the columns executed_at,symbol,side,quantity,price"),
        (f"{HEADER},commission\n".encode(), "unknown column 'commission'"),
        (f"{HEADER},product_id\n".encode(), "column symbol is there twice"),
        (HEADER.replace(",", ";").encode(), "separated by commas"),
        (f"{HEADER}\n{NOON},B\xe9,BUY,1,2\n".encode("latin-1"), "text in UTF-8; line 2 is not"),
        (HEADER.encode("utf-16"), "text in UTF-8; line 1 is not"),
        (b'[{"symbol": "BTC-USD"}]', "not a JSON array"),
    ],
)
def test_a_file_that_is_not_of_the_format_is_refused_as_a_whole(content: bytes, said: str) -> None:
    with pytest.raises(FileInvalid, match=said):
        read(content)


def test_the_disposal_behind_a_trade_is_the_mark_of_its_fee_and_no_row_of_its_own() -> None:
    rows = (
        f"{NOON},BTC-USD,BUY,1,100,0.01,BNB,,trade-1,\n"
        f"{NOON},BNB-USD,SELL,0.01,600,,,,trade-1:fee,\n"
        f"{NOON},BNB-USD,SELL,0.01,600,,,,trade-9:fee,\n"
    )
    first, second = read(f"{HEADER}\n{rows}")
    assert isinstance(first, FillRow)
    assert isinstance(second, FillRow)
    assert (first.fee_mark, first.rows) == (600, 2)
    assert (second.symbol, second.rows) == ("BNB-USD", 1)
