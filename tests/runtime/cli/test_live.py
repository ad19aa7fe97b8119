"""What the terminal of `fillbook run` says of a trade."""

import asyncio
import io
from collections.abc import Sequence

import pytest

from execution.model import Fact, FactsRecorded, Trade
from portfolio.position import PortfolioChanged
from portfolio.service import PortfolioService
from runtime.app import Started
from runtime.cli import output
from runtime.cli.live import LiveView
from tests.portfolio.bookkeeping import CLOCK, Database, Line


def said(monkeypatch: pytest.MonkeyPatch, facts: Sequence[Fact]) -> list[str]:
    """The lines about trades, when each comes with the portfolio after it."""
    stream = io.StringIO()
    console = output.console(stream)
    monkeypatch.setattr(output, "console", lambda: console)
    view = LiveView(synthetic=False, account="main", base_topic="fillbook", symbol="BTC-USD")
    view.observe(Started(seconds=1, bots=0, broker_host="127.0.0.1", broker_port=1883, feed="none", database="x"))

    async def trade() -> None:
        with_books = Database()
        service = PortfolioService(
            with_books.writer, with_books.reader, CLOCK, checkpoint_facts=1000, fence=lambda _: None
        )
        await service.start()
        for fact in facts:
            with_books.append([fact])
            await service.on_facts(FactsRecorded((fact,)))
            if isinstance(fact, Trade):
                view.observe(fact)
            view.observe(PortfolioChanged(service.portfolio("main")))
        with_books.close()

    asyncio.run(trade())
    view.goodbye()
    return [line for line in stream.getvalue().splitlines() if "-> holds" in line]


def test_a_sell_says_what_it_realized(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    facts: list[Fact] = [line.deposit("1000"), line.buy("1", "100"), line.sell("0.5", "130")]

    assert "P&L +15.00" in said(monkeypatch, facts)[-1]


def test_a_sell_beside_a_fee_without_a_value_says_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    line.deposit("1000")
    line.buy("1", "100", fee="0.01", fee_asset="BNB")
    line.sell("0.5", "130")

    sold = said(monkeypatch, line.facts)[-1]

    assert "SELL" in sold
    assert "P&L" not in sold
