"""The live screen: paints the state a few times a second, and turns keys into requests.

Painting is apart from hearing: messages only change the state, so that a flood of them or a slow terminal
costs no more than one picture per interval.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Static

from runtime.messages import BotAction
from runtime.watch import actions, panels
from runtime.watch.actions import Question, Said
from runtime.watch.feed import Desk, MakeBus, ReadBooks, listen, tried
from runtime.watch.forms import moment_of
from runtime.watch.health import health_lines
from runtime.watch.layout import LEAST_HEIGHT, LEAST_WIDTH, WIDE, share
from runtime.watch.model import Watch
from runtime.watch.tables import Table
from runtime.watch.widgets import Panel

PAINT_SECONDS = 0.2
BOOKS_SECONDS = 5.0
_SAID_SECONDS = 15.0
_MOST_MONEY_LINES = 4
_PANELS = ("positions", "bots", "trades", "health")
_TRADES_SHARE = 0.6
_LEAST_TRADES = 50
_NOTE = 12
"""Cells behind a heading for "1-25/200"."""

_KEYS = (
    ("h", "halt"),
    ("r", "resume"),
    ("s", "stop"),
    ("g", "start"),
    ("e", "evaluate"),
    ("a", "account"),
    ("?", "help"),
    ("q", "quit"),
)
_ANSWERS = (("y", "yes"), ("n", "no"), ("q", "quit"))
_HELP = (
    ("h", "halt: cancel the open orders of the account shown and refuse new ones; asks first"),
    ("r", "resume: let the account trade again; asks first"),
    ("up, down", "choose a bot"),
    ("s, g", "stop, start the chosen bot; asks first"),
    ("e", "have the chosen bot evaluate now"),
    ("a", "the next account, then all of them together"),
    ("tab", "to the next part of the screen, to scroll it with up, down, page up, page down"),
    ("q, Ctrl-C", "quit; the daemon runs on"),
    ("", ""),
    ("temp", "how strong a bot's score is: hot, warm, cool, cold; frozen without a score"),
    ("[----|##--]", "the score from -1 (sell) over 0 to +1 (buy)"),
    ("age", "since the market of a symbol was last heard"),
    ("realized", "of a trade: shown when it was heard live and is the symbol's only one between two portfolios,"),
    ("", "and nothing that the symbol realized is unknown"),
    ("since", "the P&L since this screen was opened, or since midnight UTC"),
)


class WatchApp(App[None]):
    """See the module. `read_books` reads the database, in a thread; None when there is none to be read."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layers: base above; background: $background; overflow: hidden; }
    #title, #says, #keys { height: 1; }
    #title { background: $panel; }
    #keys { background: $panel; }
    #money { height: 1; }
    #bottom { layout: vertical; height: 1fr; }
    #bottom.wide { layout: horizontal; }
    #bottom.wide #trades { margin-right: 2; }
    Panel > .panel--heading { background: $boost; color: $text; text-style: bold; }
    Panel:focus > .panel--heading { background: $boost; color: $accent; text-style: bold; }
    Panel > .panel--chosen { background: $primary 30%; }
    #help, #small { layer: above; display: none; width: 100%; height: 100%; background: $background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "leave", priority=True),
        Binding("y", "yes"),
        Binding("n,escape", "no"),
        Binding("h", "halt"),
        Binding("r", "resume"),
        Binding("s", "bot('stop')"),
        Binding("g", "bot('start')"),
        Binding("e", "evaluate"),
        Binding("a", "account"),
        Binding("question_mark", "help"),
        Binding("up", "move(-1)"),
        Binding("down", "move(1)"),
        Binding("pageup", "move(-10)"),
        Binding("pagedown", "move(10)"),
    ]

    def __init__(
        self,
        watch: Watch,
        make_bus: MakeBus,
        now: Callable[[], datetime],
        read_books: ReadBooks | None = None,
        desk: Desk | None = None,
    ) -> None:
        super().__init__()
        self._watched = watch
        self._make_bus = make_bus
        self._now = now
        self._read_books = read_books
        self._desk = desk or Desk(watch.topics, make_bus)
        self._account = 0
        self._question: Question | None = None
        self._said: tuple[Said, datetime] | None = None
        self._painted: tuple[object, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- life -------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """The parts from top to bottom; `help` and `small` lie above them when they are shown."""
        yield Static(id="title")
        yield Static(id="money")
        yield Panel("positions")
        yield Panel("bots", choosing=True)
        with Container(id="bottom"):
            yield Panel("trades")
            yield Panel("health")
        yield Static(id="says")
        yield Static(id="keys")
        yield Static(_help_text(), id="help")
        yield Static(id="small")

    def on_mount(self) -> None:
        """Begin to listen and to paint."""
        self.query_one("#bots").focus()
        self._start(listen(self._watched, self._make_bus, self._now))
        if self._read_books is not None:
            self._start(self._follow_books(self._read_books))
        self.set_interval(PAINT_SECONDS, self.paint)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: somebody else's signals
                loop.add_signal_handler(number, self.exit)
        self.call_after_refresh(self.paint)

    async def on_unmount(self) -> None:
        """Close the connections; the bus says goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A mistake of ours ends the screen with its traceback, instead of a picture that stands still."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and isinstance(error, Exception):
            self._handle_exception(error)

    async def _follow_books(self, read: ReadBooks) -> None:
        while True:
            # In a thread: a database that is busy must not hold up the screen.
            self._watched.take_books(await asyncio.to_thread(tried, read))
            await asyncio.sleep(BOOKS_SECONDS)

    # ---- painting ---------------------------------------------------------------------------------------

    @property
    def accounts(self) -> list[str]:
        """Whose data is shown: one account, or all."""
        names = self._watched.accounts
        if self._account > len(names) or (self._account == len(names) and len(names) == 1):
            self._account = 0
        return names if self._account == len(names) else [names[self._account]]

    def on_resize(self) -> None:
        """The terminal has another size."""
        self.paint()

    def paint(self) -> None:
        """Bring the screen up to date, if anything changed or a second passed (ages grow)."""
        now = self._now()
        width, height = self.size
        state = (
            self._watched.revision,
            int(now.timestamp()),
            width,
            height,
            self._account,
            self._question,
            self._said,
        )
        if state == self._painted or not self.is_running or not width:
            return
        self._painted = state
        small = width < LEAST_WIDTH or height < LEAST_HEIGHT
        self.query_one("#small", Static).display = small
        if small:
            self.query_one("#small", Static).update(
                f"{LEAST_WIDTH} x {LEAST_HEIGHT} are needed,\nthe terminal has {width} x {height}.\nq quits"
            )
            return
        self._paint_frame(now, width)
        self._paint_panels(now, width, height)

    def _paint_frame(self, now: datetime, width: int) -> None:
        watch, accounts = self._watched, self.accounts
        moment = moment_of(watch, now)
        lines = panels.money_lines(watch, accounts, moment, width)[:_MOST_MONEY_LINES]
        self.query_one("#title", Static).update(panels.title_line(watch, accounts, moment, width))
        self.query_one("#money", Static).update(Text("\n", no_wrap=True).join(lines))
        self.query_one("#money", Static).styles.height = len(lines)
        self.query_one("#says", Static).update(self._says(now))
        self.query_one("#keys", Static).update(_keys_line(width, asking=self._question is not None))

    def _paint_panels(self, now: datetime, width: int, height: int) -> None:
        watch, accounts, stale = self._watched, self.accounts, self._watched.is_stale
        moment = moment_of(watch, now)
        positions, bots, trades, health = (self.query_one(f"#{name}", Panel) for name in _PANELS)
        wide = width >= WIDE
        positions.show(panels.positions_table(watch, accounts, moment, width), empty="no open positions", stale=stale)
        names = [row.bot for row in watch.bots(accounts)]
        bots.show(panels.bots_table(watch, accounts, moment, width), keys=names, empty="no bots", stale=stale)
        most = int(width * _TRADES_SHARE) if wide else width
        fills = panels.trades_table(watch, accounts, moment, most)
        trades.show(fills, empty="no trades yet", stale=stale)
        beside = min(most, max(_LEAST_TRADES, fills.width + _NOTE)) if wide else width
        lines = health_lines(watch, moment, width - beside - 2 if wide else width)
        health.show(Table(Text("HEALTH", style="bold"), tuple(lines)))

        money_lines = min(len(accounts), _MOST_MONEY_LINES)
        heights = share(
            height - 3 - money_lines,
            positions=positions.wanted_height,
            bots=bots.wanted_height,
            health=health.wanted_height,
            wide=wide,
        )
        self.query_one("#bottom").set_class(wide, "wide")
        for name, height_of in asdict(heights).items():
            self.query_one(f"#{name}", Panel).styles.height = height_of
        trades.styles.width = beside

    def _says(self, now: datetime) -> Text:
        """The question that is open, else what was said last, for a while."""
        if self._question is not None:
            return Text.assemble((f" {self._question.text} ", "bold black on yellow"), ("  y/n", "bold yellow"))
        if self._said is None or (now - self._said[1]).total_seconds() > _SAID_SECONDS:
            return Text()
        said = self._said[0]
        return Text(said.text, style={True: "green", False: "bold red", None: "yellow"}[said.ok])

    def say(self, said: Said) -> None:
        """Show a line to the person."""
        self._said = (said, self._now())
        self.paint()

    # ---- keys -------------------------------------------------------------------------------------------

    def action_leave(self) -> None:
        """End the screen; the daemon runs on."""
        self.exit()

    def action_yes(self) -> None:
        """Do what was asked."""
        question, self._question = self._question, None
        if question is not None:
            self._start(self._answer(question))
            self.paint()

    async def _answer(self, question: Question) -> None:
        await question.act(self.say)

    def action_no(self) -> None:
        """Do nothing; also closes the help."""
        if self._question is not None:
            self._question = None
            self.say(Said("nothing was sent"))
        self.query_one("#help").display = False

    def action_halt(self) -> None:
        """Ask whether to halt what is shown."""
        self._ask(actions.ask_halt(self._desk, self.accounts))

    def action_resume(self) -> None:
        """Ask whether to resume what is shown."""
        self._ask(actions.ask_resume(self._desk, self.accounts))

    def action_bot(self, action: str) -> None:
        """Ask whether to start or stop the chosen bot."""
        name = self._chosen_bot()
        if name is not None:
            self._ask(actions.ask_bot(self._desk, name, BotAction(action)))

    def action_evaluate(self) -> None:
        """Have the chosen bot evaluate; nothing to be afraid of, so nothing is asked."""
        name = self._chosen_bot()
        if name is not None and self._question is None:
            self._start(actions.tell_bot(self._desk, name, BotAction.EVALUATE, self.say))

    def action_account(self) -> None:
        """The next account; after the last one all together."""
        if self._question is not None:
            return
        count = len(self._watched.accounts)
        if count == 1:
            self.say(Said("there is one account"))
        self._account = (self._account + 1) % (count + 1 if count > 1 else 1)
        self.paint()

    def action_help(self) -> None:
        """Show or hide what the keys and columns mean."""
        shown = self.query_one("#help")
        shown.display = not shown.display

    def action_move(self, lines: int) -> None:
        """Choose or scroll in the part that has the focus."""
        if isinstance(self.focused, Panel):
            self.focused.move(lines)

    def _ask(self, question: Question) -> None:
        if self._question is None:
            self._question = question
            self.paint()

    def _chosen_bot(self) -> str | None:
        name = self.query_one("#bots", Panel).chosen
        if name is None:
            self.say(Said("there is no bot to choose", ok=False))
        return name


def _keys_line(width: int, *, asking: bool) -> Text:
    """The keys; on a narrow screen the help has the rest of them."""
    keys = list(_ANSWERS if asking else _KEYS)
    line = _joined_keys(keys)
    while line.cell_len > width and len(keys) > 2:
        del keys[-3]  # quit and help stay
        line = _joined_keys(keys)
    return line


def _joined_keys(keys: Sequence[tuple[str, str]]) -> Text:
    return Text("  ", no_wrap=True).join(Text.assemble((key, "bold reverse"), f" {name}") for key, name in keys)


def _help_text() -> Text:
    text = Text("Fillbook watch: keys and columns\n\n", style="bold")
    for key, meaning in _HELP:
        text.append(f"  {key:<13}", style="bold").append(f"{meaning}\n", style="not bold")
    return text.append("\n  ? or Escape closes this", style="not bold")
