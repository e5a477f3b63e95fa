"""Logging: readable lines on a terminal, JSON elsewhere, never the values of variables."""

import io
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import ExcInfo

from almenara.config import LogSettings
from almenara.terminal import escape_control_characters

JSON_PROCESSORS: Final[list[Any]] = [
    # By default structlog writes the variables of each frame, and one of them may be a token.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    structlog.processors.JSONRenderer(),
]
"""The last processors of a chain that writes JSON lines."""
LINES_PER_WINDOW: Final = 120
WINDOW_SECONDS: Final = 60.0
MAX_MESSAGES: Final = 1_000
"""Messages that the throttle remembers; the least recent are forgotten first."""


def configure_logging(settings: LogSettings) -> None:
    """Log to standard error, throttled, in the format and from the level of the settings."""
    is_console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    throttle = LogThrottle()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any] = (
        [_escape_values, structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)]
        if is_console
        else JSON_PROCESSORS
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    structlog.configure(
        processors=[throttle, *shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; only their warnings concern operators.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(throttle.filter_record)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def silence_logging() -> None:
    """Drop all events below critical until `configure_logging` is called.

    Loggers are not cached meanwhile, so that the later configuration applies to all of them.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,
    )


class LogThrottle:
    """Limits repeated warnings and errors, which anyone on the network may cause.

    Of each message, `LINES_PER_WINDOW` lines are written per window. The first line of the next
    window has the number of lines that were suppressed.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """By message: the start of its window, and the lines in it."""

    def __call__(
        self, _: Any, level: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Pass an event on as a processor of structlog, or raise `structlog.DropEvent`."""
        if level in ("warning", "error", "exception"):
            suppressed = self._count_line(str(event.get("event", "")))
            if suppressed is None:
                raise structlog.DropEvent
            if suppressed:
                event["suppressed"] = suppressed
        return event

    def filter_record(self, record: logging.LogRecord) -> bool:
        """Return whether a record of the standard library is written."""
        suppressed = self._count_line(str(record.msg))
        if suppressed:
            record.msg = f"{record.msg} ({suppressed} similar messages suppressed)"
        return suppressed is not None

    def _count_line(self, message: str) -> int | None:
        """Count a line; return how many were suppressed before it, or None to suppress it too."""
        moment = time.monotonic()
        start, lines = self._windows.get(message, (moment, 0))
        suppressed = 0
        if moment - start >= WINDOW_SECONDS:
            start, suppressed, lines = moment, max(lines - LINES_PER_WINDOW, 0), 0
        self._windows[message] = start, lines + 1
        self._windows.move_to_end(message)
        if len(self._windows) > MAX_MESSAGES:
            self._windows.popitem(last=False)
        return suppressed if lines < LINES_PER_WINDOW else None


def _escape_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Some values come from outside, and a terminal would interpret control characters in them.
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = escape_control_characters(value)
    return event


def _write_traceback(target: TextIO, error: ExcInfo) -> None:
    buffer = io.StringIO()
    structlog.dev.plain_traceback(buffer, error)
    target.write(escape_control_characters(buffer.getvalue(), keep_newlines=True))
