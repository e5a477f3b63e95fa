"""The lines of a container's log: splitting them, reading their times, and dropping repeats."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from almenara.hookspecs import Line
from almenara.signals import Severity, parse_time
from almenara.units import SECOND

LONGEST_LINE: Final = 8_192
"""Bytes of a line that are displayed; the rest of it is dropped."""
LEVELS: Final = (
    (re.compile(r"\b(FATAL|PANIC|CRITICAL)\b", re.IGNORECASE), Severity.FATAL),
    (re.compile(r"\b(ERROR|ERR|SEVERE|Traceback)\b|^E\d{4} ", re.IGNORECASE), Severity.ERROR),
    (re.compile(r"\b(WARN|WARNING)\b|^W\d{4} ", re.IGNORECASE), Severity.WARN),
    (re.compile(r"\b(DEBUG|TRACE)\b", re.IGNORECASE), Severity.DEBUG),
)
LEVEL_WITHIN: Final = 120
"""Characters of a line that may hold its level; further on it is what the line is about."""
NANOSECONDS: Final = re.compile(r"(\.\d{6})\d+")


class LineSplitter:
    """Splits chunks of bytes into lines, each no longer than `LONGEST_LINE`."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_cut = False
        """Whether the line that is arriving was cut off, so that the rest of it is dropped."""

    def split(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that a chunk completes."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if not self._is_cut:
                yield line[:LONGEST_LINE]
            self._is_cut = False
        if self._is_cut:
            rest = b""
        elif len(rest) > LONGEST_LINE:
            yield rest[:LONGEST_LINE]
            rest, self._is_cut = b"", True
        self._rest = rest

    def last(self) -> bytes:
        """What has arrived of a line without an end."""
        return self._rest


class LineTracker:
    """Knows which lines of a log were displayed, so that none is repeated after a reconnection.

    Within one stream every line is displayed, whatever its time: several may have the same, and
    those of standard output and standard error arrive out of order.
    """

    def __init__(self) -> None:
        self.time = 0
        """The newest time of a line, in microseconds since the epoch."""
        self._newest: Counter[bytes] = Counter()
        """The lines of that second, which is where reading continues after a break."""
        self._since: int | None = None
        self._repeated: Counter[bytes] = Counter()
        """Those of them that are still to arrive again."""

    def resume(self) -> None:
        """Note that the log is read again from the second of the newest line."""
        self._since = self.time // SECOND * SECOND
        self._repeated = self._newest.copy()

    def accept(self, raw: bytes, source: str) -> Line | None:
        """The line, or None where it was displayed before."""
        raw = raw[:LONGEST_LINE]
        stamp, _, text = raw.rstrip(b"\r").partition(b" ")
        time: int | None = None
        try:
            # Nanoseconds are more than fromisoformat accepts.
            time = parse_time(NANOSECONDS.sub(r"\1", stamp.decode("ascii")))
        except (ValueError, UnicodeDecodeError):
            text = raw
        if time is not None:
            if self._since is not None and time < self._since:
                return None
            if self._repeated[raw]:
                self._repeated[raw] -= 1
                return None
            if time // SECOND > self.time // SECOND:
                self._newest.clear()
            self.time = max(self.time, time)
            if time // SECOND == self.time // SECOND:
                self._newest[raw] += 1
        shown = text.decode("utf-8", "replace")
        return Line(text=shown, time=time, severity=find_level(shown), source=source)


def find_level(text: str) -> Severity:
    """The severity of a line, by the first words that look like a level."""
    start = text[:LEVEL_WITHIN]
    for pattern, severity in LEVELS:
        if pattern.search(start):
            return severity
    return Severity.INFO
