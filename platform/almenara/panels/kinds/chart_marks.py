"""The events that charts mark on their time axis."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from almenara.history import Filter
from almenara.hookspecs import Marks
from almenara.panels.charts import ChartMark, Window
from almenara.panels.event_rows import summarize
from almenara.panels.view import View
from almenara.scope import ALERT_KIND
from almenara.signals import Event
from almenara.units import MILLISECOND

COMMON_MARKS: Final = (
    Marks(title="Alerts", filter={"type": f"{ALERT_KIND}.*"}),
    Marks(title="Failures", filter={"severity": "ERROR"}, is_default=False),
)
"""What every chart offers."""
MAX_MARKS: Final = 100
"""Events of one kind of marks at most: the newest."""


def offer_marks(own: Sequence[Marks]) -> Mapping[str, bool]:
    """The titles that a chart offers, and whether they are displayed by default."""
    return {marks.title: marks.is_default for marks in (*own, *COMMON_MARKS)}


async def read_marks(
    view: View, own: Sequence[Marks], filters: Mapping[str, str], window: Window
) -> list[ChartMark]:
    """Return the events to mark between two times, oldest first."""
    marks: dict[int, ChartMark] = {}
    for each in (*own, *COMMON_MARKS):
        if each.title not in window.marks:
            continue
        more = each.narrow(filters) if each.narrow is not None else {}
        chosen = msgspec.structs.replace(
            Filter.from_query({**each.filter, **more}), since=window.since, until=window.until
        )
        for record in await view.history.events(chosen, limit=MAX_MARKS, is_preview=True):
            if isinstance(record.signal, Event):
                # An event of several kinds is marked once.
                marks.setdefault(record.sequence, _make_mark(record.sequence, record.signal, each))
    return sorted(marks.values(), key=lambda mark: mark.time)


def _make_mark(sequence: int, event: Event, marks: Marks) -> ChartMark:
    subject = f"{event.subject}: " if event.subject else ""
    return ChartMark(
        time=event.time // MILLISECOND,
        group=marks.title,
        text=f"{subject}{event.type} {summarize(event)}".strip(),
        severity=event.severity.name,
        link=f"/events/{sequence}",
    )
