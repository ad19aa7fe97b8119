"""A recommendation in words: what a bot advises, why, and what it is waiting for.

It reads the recommendation as it stands on the bus (JSON), so that a command line, which knows neither the bot nor
its file, can say as much as the daemon. Whatever a message lacks (an older one, a user-written bot) is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from config.times import parse_time

Advice = Mapping[str, Any]
"""A recommendation's JSON object."""

_TOWARDS_BUYING, _TOWARDS_SELLING = "speaks for buying", "speaks for selling"
_WAITING: Mapping[str, str] = {
    "stop": "It does nothing until its stop has closed the position.",
    "answer": "It waits for the answer to its last order request.",
    "backoff": "It pauses for a while, because its last order request was refused or found no fill.",
    "next_candle": "It has asked for this candle's order already; it may ask again at the next one.",
    "cash": "There is not enough cash to buy with.",
    "position": "There is nothing to sell.",
    "halt": "Trading of its account is halted: nothing is asked for until a person resumes it (`fillbook resume`).",
    "stale_data": "Its last candle is more than two timeframes old: nothing is asked for on such a price.",
}


def explained(advice: Advice) -> list[str]:
    """The sentences, in the order in which a person asks: what, why, how strong, when."""
    return [
        _headline(advice),
        *map(_part_words, advice.get("signals") or ()),
        *_score_words(advice),
        *_confirmation_words(advice),
        *_readiness_words(advice),
    ]


def _headline(advice: Advice) -> str:
    side = advice["side"]
    does = "holds" if side == "HOLD" else f"advises {side}"
    return f"{advice['bot']} {does} on {advice['symbol']} at the close of its {_candle(advice)}."


def _candle(advice: Advice) -> str:
    return f"{advice['timeframe']} candle of {_moment(advice['time'])}"


# ---- the signals --------------------------------------------------------------------------------------


def _part_words(part: Mapping[str, Any]) -> str:
    value, score, weight = part.get("value"), part["score"], part["weight"]
    subject = part["name"] if value is None else f"{part['name']} is {number(value)}"
    if score is None:
        reason = part.get("why") or "it has no opinion"
        return f"{part['name']} has no vote: {reason} (weight {weight:.2f})."
    meaning = _meaning(part)
    opinion = _opinion(score)
    return f"{subject}{meaning}, which {opinion} ({score:+.2f}, weight {weight:.2f})."


def _opinion(score: float) -> str:
    if abs(score) < 0.005:
        return "speaks for neither side"
    return _TOWARDS_BUYING if score > 0 else _TOWARDS_SELLING


def _meaning(part: Mapping[str, Any]) -> str:
    """What the value means to its mapper: ", below 30: oversold"."""
    how, value = part.get("how") or {}, part.get("value")
    words = _MEANINGS.get(str(how.get("mapper")))
    if words is None or value is None:
        return ""
    score = -part["score"] if how.get("inverted") else part["score"]
    turned = " (turned around by the file)" if how.get("inverted") else ""
    return f", {words(how, value, score)}{turned}"


def _band(how: Mapping[str, Any], value: float, _score: float) -> str:
    _, low, high, _ = how["zones"]
    if value <= low:
        return f"at or below {number(low)}: oversold" if value == low else f"below {number(low)}: oversold"
    if value >= high:
        return f"at or above {number(high)}: overbought" if value == high else f"above {number(high)}: overbought"
    half = "lower" if value < (low + high) / 2 else "upper"
    return f"between {number(low)} and {number(high)}, in the {half} half"


def _macd(_how: Mapping[str, Any], value: float, _score: float) -> str:
    direction = "above 0: momentum points up" if value > 0 else "below 0: momentum points down"
    return direction if value else "exactly 0: no momentum"


def _cross(_how: Mapping[str, Any], value: float, score: float) -> str:
    place = "above" if value > 0 else "below" if value < 0 else "on"
    fresh = "" if value == 0 or (score > 0) == (value > 0) else ", though it crossed the other way a moment ago"
    return f"the fast average lies {place} the slow one{fresh}"


def _bollinger(_how: Mapping[str, Any], value: float, _score: float) -> str:
    if value < 0:
        return "the close is under the lower band"
    if value > 1:
        return "the close is over the upper band"
    return f"the close is {value:.0%} of the way from the lower to the upper band"


def _adx(how: Mapping[str, Any], value: float, score: float) -> str:
    strength = "a strong trend" if value >= float(how.get("full", 50.0)) / 2 else "a weak trend"
    return f"{strength} {'up' if score > 0 else 'down' if score < 0 else 'without direction'}"


def _pattern(_how: Mapping[str, Any], value: float, _score: float) -> str:
    if value == 0:
        return "no such pattern on this candle"
    return "a bullish pattern" if value > 0 else "a bearish pattern"


def _zscore(how: Mapping[str, Any], _value: float, score: float) -> str:
    place = "below" if score > 0 else "above" if score < 0 else "at"
    return f"{place} the mean of its last {how.get('window', '')} values"


def _slope(how: Mapping[str, Any], _value: float, score: float) -> str:
    bars = int(how.get("bars", 1))
    ago = "a candle ago" if bars == 1 else f"{bars} candles ago"
    return f"{'higher' if score > 0 else 'lower'} than {ago}" if score else f"as {ago}"


def _price_vs(_how: Mapping[str, Any], _value: float, score: float) -> str:
    return f"the close lies {'above' if score > 0 else 'below' if score < 0 else 'on'} it"


_MEANINGS: Mapping[str, Callable[[Mapping[str, Any], float, float], str]] = {
    "band": _band,
    "macd": _macd,
    "cross": _cross,
    "bollinger": _bollinger,
    "adx": _adx,
    "pattern": _pattern,
    "zscore": _zscore,
    "slope": _slope,
    "price_vs": _price_vs,
}


# ---- the score ----------------------------------------------------------------------------------------


def _score_words(advice: Advice) -> list[str]:
    score, parts = advice["score"], advice.get("signals") or ()
    temperature = advice["temperature"]
    if score is None:
        if not parts:
            return [f"It has no score ({temperature})."]
        return [f"{_voters(parts)}: less than half, so there is no score ({temperature})."]
    voters = f" {_voters(parts)}." if any(part["score"] is None for part in parts) else ""
    return [f"The combined score is {score:+.3f} ({temperature}){_against(advice)}.{voters}"]


def _against(advice: Advice) -> str:
    threshold = advice.get("threshold")
    if threshold is None:
        return ""
    size, least = abs(advice["score"]), f"{threshold:.2f}"
    reached = advice["side"] != "HOLD"
    if reached:
        return f": at least the threshold of {least}"
    return f": short of the threshold of {least} by {threshold - size:.3f}" if size < threshold else ""


def _voters(parts: Sequence[Mapping[str, Any]]) -> str:
    voting = sum(part["weight"] for part in parts if part["score"] is not None)
    return f"The signals that vote hold {voting:.2f} of {sum(part['weight'] for part in parts):.2f} of the weight"


# ---- from advice to an order --------------------------------------------------------------------------


def _confirmation_words(advice: Advice) -> list[str]:
    if advice["side"] == "HOLD":
        return []
    since, due = advice.get("confirmed_since"), advice.get("confirmation_due")
    if since is not None:
        return [f"{advice['side']} is confirmed since {_moment(since)}."]
    if due is None:
        return []
    left = parse_time(due) - parse_time(advice["decided_at"])
    return [
        f"{advice['side']} is not confirmed yet: it must hold for {length(left)} more, until a close at or after "
        f"{_moment(due)}."
    ]


def _readiness_words(advice: Advice) -> list[str]:
    words = []
    if (until := advice.get("cooldown_until")) is not None:
        left = parse_time(until) - parse_time(advice["decided_at"])
        words.append(f"It cools down after its last fill until {_moment(until)}, for {length(left)} more.")
    if advice.get("ready_to_trade"):
        words.append("It is ready: an order request went out with this advice.")
    elif advice["side"] == "HOLD":
        words.append("There is nothing to do.")
    elif (waiting := _WAITING.get(str(advice.get("waiting_for")))) is not None:
        words.append(waiting)
    return words


# ---- values -------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """An indicator's value to read: 27.3, -0.00123, 1234567."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15 or size < 1e-6:
        return f"{value:.3g}"
    digits = 0 if size >= 100_000 else 1 if size >= 10 else 2 if size >= 1 else 3
    while size < 10 ** (2 - digits) and digits < 9:
        digits += 1
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"


def length(span: timedelta) -> str:
    """A time span to read: "2 h 5 min", "30 s"."""
    seconds = max(int(span.total_seconds()), 0)
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    words = []
    for size, unit in units:
        count, seconds = divmod(seconds, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"


def _moment(text: str) -> str:
    at: datetime = parse_time(text)
    return f"{at:%Y-%m-%d %H:%M}" + (f":{at:%S}" if at.second else "") + " UTC"
