"""Logs: for people on a terminal, and as JSON elsewhere; never what variables held."""

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
from almenara.terminal import printable

AS_JSON: Final[list[Any]] = [
    # By default structlog writes the variables of each frame too, and a token may be one of them.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    structlog.processors.JSONRenderer(),
]
"""What ends a chain of processors whose lines are read by machines."""
A_MINUTE: Final = 120
MINUTE: Final = 60.0
KINDS: Final = 1_000


def configure_logging(settings: LogSettings) -> None:
    """Log to standard error, for people on a terminal and as JSON elsewhere."""
    people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    floods = Floods()
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
        processors=[floods, *shared, *renderer],
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
    handler.addFilter(floods.library)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


class Floods:
    """A processor that leaves out what fills a disk: of warnings and errors of one kind, which
    anybody on the network may cause, the first `A_MINUTE` of each minute are written, and how many
    were not."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __call__(
        self, _: Any, level: str, told: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        if level in ("warning", "error", "exception"):
            left_out = self._left_out(str(told.get("event", "")))
            if left_out is None:
                raise structlog.DropEvent
            if left_out:
                told["not_written_before"] = left_out
        return told

    def library(self, record: logging.LogRecord) -> bool:
        """Whether a line of a library is written."""
        left_out = self._left_out(str(record.msg))
        if left_out:
            record.msg = f"{record.msg} ({left_out} like it were not written)"
        return left_out is not None

    def _left_out(self, kind: str) -> int | None:
        """How many of a kind were left out before this one; None where it is left out too."""
        moment = time.monotonic()
        since, count = self._kinds.get(kind, (moment, 0))
        left_out = 0
        if moment - since >= MINUTE:
            since, left_out, count = moment, max(count - A_MINUTE, 0), 0
        self._kinds[kind] = since, count + 1
        self._kinds.move_to_end(kind)
        if len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        return left_out if count < A_MINUTE else None


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
