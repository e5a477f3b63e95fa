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

ALERTS: Final = Marks(title="Alerts", filter={"type": f"{ALERT_KIND}.firing"})
FAILURES: Final = Marks(title="Failures", filter={"severity": "ERROR"}, is_default=False)
OWN: Final = "almenara"
"""In front of the kinds of the core, whose charts are about every plugin."""
MAX_MARKS: Final = 100
"""Events of one kind of marks at most: the newest."""


def offer_marks(own: Sequence[Marks]) -> Mapping[str, bool]:
    """The titles that a chart offers, and whether they are displayed by default."""
    return {marks.title: marks.is_default for marks in (*own, ALERTS, FAILURES)}


async def read_marks(
    view: View, kind: str, own: Sequence[Marks], filters: Mapping[str, str], window: Window
) -> list[ChartMark]:
    """Return the events to mark between two times, oldest first. `kind` is that of the resources of
    the chart, or a pattern of it."""
    marks: dict[int, ChartMark] = {}
    for each in (*own, limit_to_plugin(ALERTS, kind), FAILURES):
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


def limit_to_plugin(marks: Marks, kind: str) -> Marks:
    """Return marks without those of other plugins, where the kind names one: `nats.stream`. Its
    sources have names such as `nats` and `ray/prod`."""
    plugin, dot, _ = kind.partition(".")
    if not dot or not plugin.isidentifier() or plugin == OWN:
        return marks
    return msgspec.structs.replace(marks, filter={**marks.filter, "origin": f"{plugin}/**"})


def _make_mark(sequence: int, event: Event, marks: Marks) -> ChartMark:
    subject = f"{event.subject}: " if event.subject else ""
    return ChartMark(
        time=event.time // MILLISECOND,
        group=marks.title,
        text=f"{subject}{event.type} {summarize(event)}".strip(),
        severity=event.severity.name,
        link=f"/events/{sequence}",
    )
