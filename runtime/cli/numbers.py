"""Numbers that people give as options: exact, None when the option is not given. All raise BadParameter."""

from decimal import Decimal

import typer


def any_number(option: str, text: str | None) -> Decimal | None:
    """A number of either sign."""
    from config.exact import NotADecimal, parse_decimal

    if text is None:
        return None
    try:
        return parse_decimal(text)
    except NotADecimal as error:
        raise typer.BadParameter(f"{error}, not {text!r}", param_hint=option) from None


def zero_or_more(option: str, text: str | None) -> Decimal | None:
    """A number of at least 0."""
    value = any_number(option, text)
    if value is not None and value < 0:
        raise typer.BadParameter(f"a number of at least 0, not {text}", param_hint=option)
    return value


def positive(option: str, text: str | None) -> Decimal | None:
    """A number above 0."""
    value = any_number(option, text)
    if value is not None and value <= 0:
        raise typer.BadParameter(f"a number above 0, not {text}", param_hint=option)
    return value
