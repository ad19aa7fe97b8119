"""`bots`, `signals`, `bot`: what the bots are, what they advise, and telling them to start or stop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli.base import FAILED, UNREACHABLE, USAGE, CommandFailed, Place, command
from runtime.cli.books import page
from runtime.cli.inputs import BotsOption

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from signals.bot_file import BotFile

PANEL = "Look"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "bots", json=True, panel=PANEL)(bots)
    command(app, "signals", json=True, panel=PANEL)(signals)
    command(app, "bot", panel="Trade")(bot)


def bots(place: Place, bots: BotsOption = None) -> None:
    """The bots: their files (those that a running daemon has), and the state in which they are."""
    from runtime.cli.output import show_json, show_table
    from runtime.cli.stop_words import stops_text

    rows = place.read(_stored)
    live = _live(place)
    files = _files(list(bots or _folders(place)), live)
    items: list[dict[str, Any]] = []
    for name in sorted({*files, *live} if live else {*rows, *files}):
        row, file, state = rows.get(name), files.get(name), live.get(name)
        items.append(
            {
                "bot": name,
                "status": state["status"] if state else (row["status"] if row else None),
                "symbol": (state or {}).get("symbol") or (file.symbol if file else None),
                "timeframe": (state or {}).get("timeframe") or (file.timeframe if file else None),
                "account": (state or {}).get("account") or (file.account if file else None),
                "class": file.kind if file else None,
                "enabled": file.enabled if file else None,
                "operator_stopped": row["operator_stopped"] if row else False,
                "updated_at": row["updated_at"] if row else None,
                "last_error": (state or {}).get("last_error"),
                "file_error": (state or {}).get("file_error"),
                "stops": (state or {}).get("stops"),
                "running": state is not None,
            }
        )
    if place.json:
        show_json(page(items))
        return
    show_table(
        ["bot", "status", "symbol", "timeframe", "account", "class", "enabled", "stops", "error"],
        [
            [
                item["bot"],
                _status_text(item),
                item["symbol"] or "-",
                item["timeframe"] or "any",
                item["account"] or "-",
                item["class"] or "(no file here)",
                {True: "yes", False: "no", None: "-"}[item["enabled"]],
                stops_text(item["stops"], files.get(item["bot"])) or "-",
                item["last_error"] or (f"file not taken: {item['file_error']}" if item["file_error"] else ""),
            ]
            for item in items
        ],
        empty="no bots",
    )


def _files(paths: "list[Path]", live: dict[str, dict[str, Any]]) -> "dict[str, BotFile]":
    """The bots of the files by name. With a daemon that runs on without the bad files they are named on stderr;
    otherwise raises ConfigurationInvalid."""
    from config.toml_errors import ConfigurationInvalid
    from runtime.bot_files import BotFiles
    from runtime.cli.base import say
    from signals.loading import load_bots

    try:
        return {file.name: file for file in load_bots(paths)}
    except ConfigurationInvalid as invalid:
        if not live:
            raise
        say(*map(str, invalid.faults))
    files = BotFiles(paths, {})
    bots: dict[str, BotFile] = {}
    for path, digest in files.look().items():
        found = files.check(path, digest).bot
        if found is not None and not _runs(bots.get(found.name), live):
            bots[found.name] = found  # of two files with one name the one that runs has it
    return bots


def _runs(file: "BotFile | None", live: dict[str, dict[str, Any]]) -> bool:
    """Whether a file is, by all that is to be seen from here, that of the running bot of its name."""
    state = None if file is None else live.get(file.name)
    return file is not None and (
        state is None or (file.symbol, file.account) == (state.get("symbol"), state.get("account"))
    )


def _folders(place: Place) -> list[Path]:
    """Where the bots are from: a running daemon knows, otherwise the settings do."""
    if place.daemon is not None and place.daemon.bots:
        return [Path(name) for name in place.daemon.bots]
    return [place.settings.bots_folder]


def _status_text(item: dict[str, Any]) -> str:
    if item["running"]:
        return str(item["status"])
    if item["status"] is None:
        return "never ran"
    return f"{item['status']} when last seen"


def _stored(connection: "Connection") -> dict[str, dict[str, Any]]:
    """The saved states by bot."""
    from sqlalchemy import select

    from config.times import time_text
    from signals.tables import bot_states

    columns = bot_states.c
    query = select(columns.bot, columns.status, columns.operator_stopped, columns.updated_at)
    return {
        row.bot: {
            "status": row.status,
            "operator_stopped": row.operator_stopped,
            "updated_at": time_text(row.updated_at),
        }
        for row in connection.execute(query)
    }


def _live(place: Place) -> dict[str, dict[str, Any]]:
    """The retained states by bot, when a daemon runs; nothing when it cannot be asked.

    A state is renewed within a second of an advice, so there is no need to wait for the next one.
    """
    import asyncio

    from runtime.bus import BusUnavailable
    from runtime.client import address_of, retained
    from runtime.topics import RouteName

    address = address_of(place.settings, place.daemon)
    if address is None:
        return {}
    filters = [address.topics.filter(RouteName.BOT_STATE)]
    try:
        found = asyncio.run(retained(address, filters))
    except BusUnavailable:
        return {}
    return {body["bot"]: body for body in found.values() if isinstance(body, dict) and "bot" in body}


def signals(
    place: Place,
    name: Annotated[str | None, typer.Argument(metavar="[BOT]", help="Only this bot.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say in words what each advises and why.")] = False,
) -> None:
    """What each bot last advised, and how its signals voted. Needs a running daemon."""
    from runtime.cli.output import show, show_json, show_table
    from runtime.cli.requests import no_daemon

    live = _live(place)
    if not live:
        if place.daemon is None:
            raise no_daemon(place)
        raise CommandFailed("the running daemon has no bots, or its broker cannot be reached", UNREACHABLE)
    if name is not None and name not in live:
        raise CommandFailed(f"there is no bot {name!r}; there are: {', '.join(sorted(live))}", USAGE)
    states = [live[bot] for bot in sorted(live) if name in (None, bot)]
    if place.json:
        show_json(page(_signal_item(state, explain) for state in states))
    elif explain:
        show("\n\n".join("\n".join(_explanation(state)) for state in states))
    else:
        show_table(
            ["bot", "symbol", "side", ">score", "temperature", "confirmed since", "candle", "signals"],
            [_signal_row(state) for state in states],
            empty="",
        )


NO_ADVICE: dict[str, Any] = {
    "bot": None, "symbol": None, "account": None, "timeframe": None, "side": "HOLD", "score": None,
    "temperature": "FROZEN", "signals": [], "confirmed_since": None, "cooldown_until": None, "ready_to_trade": False,
    "time": None, "decided_at": None, "threshold": None, "confirmation_due": None, "waiting_for": None,
}  # fmt: skip
"""A recommendation of a bot that has not advised yet: what nobody knows is null."""


def _signal_item(state: dict[str, Any], explain: bool) -> dict[str, Any]:
    known = {key: state.get(key) for key in ("bot", "symbol", "account", "timeframe")}
    item = state["last_recommendation"] or {**NO_ADVICE, **known}
    return {**item, "explanation": _explanation(state)} if explain else item


def _explanation(state: dict[str, Any]) -> list[str]:
    """The state of a bot that does not run, then its last advice in words."""
    from signals.words import explained

    words = []
    if state["status"] != "RUNNING":
        error = f": {state['last_error']}" if state.get("last_error") else ""
        words.append(f"{state['bot']} is {state['status']}{error}.")
    advice = state["last_recommendation"]
    if advice is None:
        return [*words, f"{state['bot']} has seen no candle of {state['symbol']} yet."]
    return [*words, *explained(advice)]


def _signal_row(state: dict[str, Any]) -> list[Any]:
    advice = state["last_recommendation"]
    if advice is None:
        return [state["bot"], state["symbol"], "-", "-", "-", "-", "-", f"{state['status']}, no candle yet"]
    votes = ", ".join(f"{part['name']} {_score(part['score'])}" for part in advice["signals"])
    confirmed = advice["confirmed_since"] or "-"
    return [
        state["bot"],
        advice["symbol"],
        advice["side"],
        _score(advice["score"]),
        advice["temperature"],
        confirmed,
        advice["time"],
        votes,
    ]


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:+.3f}"


def bot(
    place: Place,
    action: Annotated[str, typer.Argument(metavar="start|stop|evaluate", help="What the bot is to do.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The bot's name.")],
) -> None:
    """Start or stop a bot of the running daemon, or have it evaluate now."""
    import asyncio

    from runtime.bus import BusUnavailable
    from runtime.cli.output import show
    from runtime.cli.requests import no_daemon
    from runtime.client import WANTED_STATUS, address_of, connected, tell_bot
    from runtime.messages import BotAction

    if action not in list(BotAction):
        raise typer.BadParameter(f"one of {', '.join(BotAction)}, not {action!r}", param_hint="ACTION")
    address = address_of(place.settings, place.daemon)
    if address is None:
        raise no_daemon(place)
    known = _live(place)
    if known and name not in known:
        raise CommandFailed(f"there is no bot {name!r}; there are: {', '.join(sorted(known))}", USAGE)
    wanted = WANTED_STATUS.get(BotAction(action))

    async def tell() -> str | None:
        """The status that the bot says it has; an evaluation is not waited for."""
        topics = address.topics
        async with connected(address, [topics.bot_state(name)], timeout=5.0) as bus:
            if wanted is None:
                await bus.publish(topics.bot_set(name), action.encode())
                return None
            state = await tell_bot(bus, topics, name, BotAction(action), timeout=5.0)
            return None if state is None else state.get("status")

    try:
        status = asyncio.run(tell())
    except BusUnavailable as error:
        raise CommandFailed(str(error), UNREACHABLE) from None
    if wanted is not None and status != wanted:
        raise CommandFailed(f"bot {name} did not become {wanted} within 5 s; it is {status or 'silent'}", FAILED)
    show(f"bot {name}: {wanted or 'evaluated; `fillbook signals` shows its advice'}")
