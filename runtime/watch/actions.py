"""What the keys ask of the daemon: the question before, the request, and the answer in words."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.cli.requests import reason_text
from runtime.client import WANTED_STATUS
from runtime.errors import RuntimeFault
from runtime.messages import BotAction
from runtime.topics import Command
from runtime.watch.feed import Desk
from runtime.watch.rows import clean

NOTE = "asked for in fillbook watch"
_REFUSED = ("refused", "rejected", "expired", "unknown")


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the person; `ok` is False for what went wrong, None while nobody knows yet."""

    text: str
    ok: bool | None = None


Tell = Callable[[Said], None]


@dataclass(frozen=True, slots=True)
class Question:
    """Asked before anything is sent; `act` is what a yes does."""

    text: str
    act: Callable[[Tell], Awaitable[None]]


def ask_halt(desk: Desk, accounts: Sequence[str]) -> Question:
    """Whether to stop all trading."""
    text = f"Halt {_names(accounts)}? Open orders are cancelled, new ones refused."
    return Question(text, lambda tell: _for_each(desk, accounts, Command.HALT, tell))


def ask_resume(desk: Desk, accounts: Sequence[str]) -> Question:
    """Whether to trade again."""
    return Question(f"Resume {_names(accounts)}?", lambda tell: _for_each(desk, accounts, Command.RESUME, tell))


def ask_bot(desk: Desk, name: str, action: BotAction) -> Question:
    """Whether to start or stop a bot."""
    return Question(f"{action.capitalize()} bot {name}?", lambda tell: tell_bot(desk, name, action, tell))


def _names(accounts: Sequence[str]) -> str:
    return f"account {accounts[0]}" if len(accounts) == 1 else f"the accounts {', '.join(accounts)}"


async def _for_each(desk: Desk, accounts: Sequence[str], command: Command, tell: Tell) -> None:
    said = []
    for account in accounts:
        tell(Said(f"{command} {account} ..."))
        said.append(await _request(desk, account, command))
    tell(Said("; ".join(line.text for line in said), all(line.ok for line in said)))


async def _request(desk: Desk, account: str, command: Command) -> Said:
    try:
        answer = await desk.request(account, command, NOTE)
    except RuntimeFault as error:
        text = f"{command} {account}: {clean(str(error))}. The outcome is unknown; asking again does no harm"
        return Said(text, ok=False)
    status = clean(str(answer.get("status")))
    return Said(f"{command} {account}: {status}{_why(answer.get('reason'))}", status not in _REFUSED)


async def tell_bot(desk: Desk, name: str, action: BotAction, tell: Tell) -> None:
    """Start, stop or evaluate a bot, and say what came of it."""
    tell(Said(f"{action} bot {name} ..."))
    try:
        heard = await desk.bot(name, action)
    except RuntimeFault as error:
        tell(Said(f"{action} bot {name}: {clean(str(error))}", False))
        return
    tell(_bot_answer(name, action, heard, desk.bot_seconds))


def _bot_answer(name: str, action: BotAction, heard: Mapping[str, Any] | None, seconds: float) -> Said:
    wanted = WANTED_STATUS.get(action)
    if heard is None:
        return Said(f"{action} bot {name}: no answer within {seconds:g} s", False)
    if wanted is None:
        score = heard.get("score")
        shown = f", score {score:+.2f}" if isinstance(score, int | float) else ""
        return Said(f"bot {name} advises {clean(str(heard.get('side')))}{shown}", True)
    status = clean(str(heard.get("status")))
    if status == wanted:
        return Said(f"bot {name}: {status}", True)
    return Said(f"bot {name} did not become {wanted} within {seconds:g} s; it is {status}", False)


def _why(reason: object) -> str:
    """The reason of a refusal, in the words of the commands."""
    return clean(reason_text(reason)) if isinstance(reason, Mapping) and "code" in reason else ""
