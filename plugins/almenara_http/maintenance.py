"""Windows of maintenance: times at which a check may fail without being down."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from almenara.sdk.calendar import Calendar, Day, Schedule, TimeOfDay, find_zone
from almenara.units import SECOND

Positive = Annotated[float, msgspec.Meta(gt=0)]


class MaintenanceWindow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A window of time that repeats: by time of day (`start` and `end`), or by `cron` and
    `duration`."""

    start: TimeOfDay | None = None
    """Local time of day at which the window starts, such as `02:00`."""
    end: TimeOfDay | None = None
    """Local time of day at which it ends; the next day, where that is not after `start`."""
    days: list[Day] = []
    """Days on which the window starts; empty for every day."""
    cron: str | None = None
    """Cron expression of its starts, such as `0 3 * * 0`."""
    duration: Positive | None = None
    """Seconds after a start of `cron` at which it ends."""
    zone: str = "UTC"
    """Time zone, such as `Europe/Madrid`."""

    def __post_init__(self) -> None:
        find_zone(self.zone)
        by_day = (self.start, self.end)
        by_cron = (self.cron, self.duration)
        if None not in by_day and by_cron == (None, None):
            return
        if None in by_cron or by_day != (None, None) or self.days:
            raise ValueError(
                "a window takes start and end (with days, if not every day), or cron and duration"
            )
        Schedule(self.cron or "", self.zone)

    def active_until(self, moment: int) -> int | None:
        """When the window ends that a time is within; None outside of one. Both are microseconds
        since the epoch."""
        if self.start is not None and self.end is not None:
            calendar = Calendar(start=self.start, end=self.end, days=self.days, zone=self.zone)
            return calendar.next_change(moment) if calendar.is_active(moment) else None
        length = int((self.duration or 0) * SECOND)
        start = Schedule(self.cron or "", self.zone).next_after(moment - length)
        return start + length if start <= moment else None


def maintenance_end(windows: Sequence[MaintenanceWindow], moment: int) -> int | None:
    """When the windows end that a time is within; None outside of all."""
    ends = (window.active_until(moment) for window in windows)
    return max((end for end in ends if end is not None), default=None)
