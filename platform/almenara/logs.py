"""Logs: for people on a terminal, and as JSON elsewhere; never what variables held."""

import io
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import ExcInfo

from almenara.printing import printable
from almenara.settings import LogSettings

AS_JSON: Final[list[Any]] = [
    # By default structlog writes the variables of each frame too, and a token may be one of them.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    structlog.processors.JSONRenderer(),
]
"""What ends a chain of processors whose lines are read by machines."""


def configure_logging(settings: LogSettings) -> None:
    """Log to standard error, for people on a terminal and as JSON elsewhere."""
    people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any] = (
        [_harmless, structlog.dev.ConsoleRenderer(exception_formatter=_traceback)]
        if people
        else AS_JSON
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; only what they warn of is for operators.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _harmless(_: Any, __: str, told: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Some of what is logged comes from outside, and a terminal would obey it.
    for name, value in told.items():
        if isinstance(value, str):
            told[name] = printable(value)
    return told


def _traceback(target: TextIO, error: ExcInfo) -> None:
    written = io.StringIO()
    structlog.dev.plain_traceback(written, error)
    target.write(printable(written.getvalue(), lines=True))
