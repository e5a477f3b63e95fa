"""The time by which the log ages: elapsed time, which jumps of the system clock do not touch.

Retention removes what is older than an age. With the system clock, five seconds of a wrong date
would be enough to remove everything. So the log has a time of its own. It advances by the monotonic
clock while the process runs, and by the same clock over a restart on the same boot of the machine.
Where the system clock is ahead of it (a reboot, another node, a suspended machine), it catches up,
at no more than the speed at which time passes, and only once the system clock has run evenly for
`SETTLE` seconds. It never goes back.
"""

from pathlib import Path
from typing import Final

import msgspec

from almenara.clock import Clock, SystemClock
from almenara.units import DAY, HOUR, MINUTE, SECOND

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
TOLERANCE: Final = 60 * SECOND
"""Difference to the system clock that is followed without a word: time servers make small steps."""
EVEN: Final = 5 * SECOND
"""By how much the system clock may stray from the monotonic one while it counts as even."""
SETTLE: Final = 10 * MINUTE


class Anchor(msgspec.Struct, frozen=True):
    """Where the log's time stood, stored with the log."""

    time: int
    """The log's time, in microseconds."""
    monotonic: int
    """The monotonic clock at that time, in microseconds."""
    boot: str
    """The boot of the machine for which `monotonic` counts; empty where that is unknown."""


class LogClock:
    """Time of the log, in microseconds; close to the time since the epoch."""

    def __init__(self, anchor: Anchor | None, clock: Clock | None = None, boot: str | None = None):
        self._clock = clock or SystemClock()
        self._boot = read_boot_id() if boot is None else boot
        self._monotonic = self._read_monotonic()
        wall = self._clock.now()
        self._offset, self._even_since = wall - self._monotonic, self._monotonic
        if anchor is None:
            self._time = wall
        elif anchor.boot and anchor.boot == self._boot and self._monotonic >= anchor.monotonic:
            self._time = anchor.time + self._monotonic - anchor.monotonic
        else:
            self._time = anchor.time
        self.ahead = wall - self._time
        """How far the system clock is ahead of the log's time; negative where it is behind."""

    def advance(self) -> int:
        """Return the log's time now."""
        monotonic, wall = self._read_monotonic(), self._clock.now()
        elapsed = monotonic - self._monotonic
        self._monotonic = monotonic
        self._time += elapsed
        if abs(wall - monotonic - self._offset) > EVEN:
            self._offset, self._even_since = wall - monotonic, monotonic
        ahead = wall - self._time
        if ahead > 0 and (ahead <= TOLERANCE or monotonic - self._even_since >= SETTLE):
            self._time += min(elapsed, ahead)
        self.ahead = wall - self._time
        return self._time

    def anchor(self) -> Anchor:
        """What to store, so that a restart can go on from here."""
        return Anchor(self._time, self._monotonic, self._boot)

    @property
    def problem(self) -> str | None:
        """The warning for a system clock that differs from the time that has passed; else None."""
        if abs(self.ahead) <= TOLERANCE:
            return None
        direction = "ahead of" if self.ahead > 0 else "behind"
        return (
            f"The system clock is {format_duration(abs(self.ahead))} {direction} the time that has"
            " passed since the last signals were stored. Retention goes by elapsed time and removes"
            " nothing because of the difference. If the date of this machine is wrong, check its"
            " time synchronization."
        )

    def _read_monotonic(self) -> int:
        return int(self._clock.monotonic() * SECOND)


def read_boot_id() -> str:
    """Return the id of this boot of the machine; empty where the system has none."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def format_duration(microseconds: int) -> str:
    """Return a duration in its largest unit: `365 days`, `2 hours`."""
    for unit, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (SECOND, "second")):
        # 59 minutes and 59 seconds are an hour.
        if microseconds >= 0.99 * unit:
            count = round(microseconds / unit)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a second"
