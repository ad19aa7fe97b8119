"""Logging: structlog on stderr, readable lines on a terminal, one JSON object per line elsewhere."""

import logging
import sys
from typing import Any, TextIO

import structlog

from config.settings import LogSettings


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: commands run inside tests exchange it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would keep the stream

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there
        return sys.stderr


_processors: list[Any] = []
"""One list for all calls: loggers in use keep the list that they were made with."""


def configure_logging(settings: LogSettings) -> None:
    """Send everything, also what libraries log, through one formatter to stderr."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    _processors[:] = [*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    structlog.configure(
        processors=_processors,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It tells each change of a watched folder: a log that lies there itself would never come to rest.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
