"""Calendar times in a time zone: windows that repeat, and schedules of cron.

A local time that a change of the clocks skips counts as the moment of the change. Of one that it
repeats, a window starts at the first and ends at the last.
"""

import zoneinfo
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Final, Literal

import msgspec
from cronsim import CronSim, CronSimError

from almenara.config import suggest
from almenara.units import SECOND

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[Sequence[Day]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TimeOfDay = Annotated[str, msgspec.Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
LATEST: Final = datetime(9990, 1, 1, tzinfo=UTC)


class Calendar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A window of time that repeats. One whose end is not after its start ends the next day."""

    start: TimeOfDay
    """Local time of day, such as `02:00`."""
    end: TimeOfDay
    days: list[Day] = []
    """Days on which the window starts; empty for every day."""
    zone: str = "UTC"
    """Time zone, such as `Europe/Madrid`."""

    def __post_init__(self) -> None:
        find_zone(self.zone)

    def is_active(self, moment: int) -> bool:
        """Whether a time, in microseconds since the epoch, is within the window."""
        return any(start <= moment < end for start, end in self._windows(moment))

    def next_change(self, moment: int) -> int | None:
        """Return the next start or end after a time; None beyond the calendar."""
        edges = (edge for window in self._windows(moment) for edge in window if edge > moment)
        return min(edges, default=None)

    def _windows(self, moment: int) -> Iterator[tuple[int, int]]:
        """The windows around a time: of the day before, and of the next week."""
        zone = find_zone(self.zone)
        local = datetime.fromtimestamp(min(moment // SECOND, int(LATEST.timestamp())), zone).date()
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        for offset in range(-1, 9):
            day = local + timedelta(days=offset)
            if self.days and DAYS[day.weekday()] not in self.days:
                continue
            last = day if end > start else day + timedelta(days=1)
            yield _instant(day, start, zone), _instant(last, end.replace(fold=1), zone)

    def __str__(self) -> str:
        days = ", ".join(self.days) or "every day"
        return f"{days} {self.start} to {self.end} {self.zone}"


class Schedule:
    """The times of a cron expression. Raises `ValueError` for one that is wrong."""

    def __init__(self, expression: str, zone: str) -> None:
        self._zone = find_zone(zone)
        self.expression = expression
        try:
            self.next_after(0)
        except CronSimError as error:
            raise ValueError(
                f"{expression[:80]!r} is not a cron expression: {error}; write minute, hour, day of"
                " the month, month and day of the week: `0 3 * * *` for 03:00 every day"
            ) from None
        except StopIteration:
            raise ValueError(f"{expression[:80]!r} is a date that never comes") from None

    def next_after(self, moment: int) -> int:
        """Return the next time of the schedule, in microseconds since the epoch."""
        local = datetime.fromtimestamp(moment // SECOND, self._zone)
        return int(next(CronSim(self.expression, local)).timestamp()) * SECOND


def find_zone(name: str) -> zoneinfo.ZoneInfo:
    """Return a time zone. Raises `ValueError` with the nearest valid name."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        names = sorted(zoneinfo.available_timezones())
        raise ValueError(f"{name[:80]!r} is not a time zone; {suggest(name, names)}") from None


def _instant(day: date, at: time, zone: zoneinfo.ZoneInfo) -> int:
    local = datetime.combine(day, at)
    for _ in range(24 * 60):
        moment = local.replace(tzinfo=zone).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == local.replace(fold=0):
            break
        local += timedelta(minutes=1)
    return int(moment.timestamp()) * SECOND
