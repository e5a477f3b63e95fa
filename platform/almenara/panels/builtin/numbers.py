"""The key figures: the rate of events, errors of the last hour, events stored, failing sources."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.event_rows import link_to_events
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Event, Severity, now
from almenara.units import HOUR, MINUTE, SECOND

COUNT_LIMIT: Final = 10_000
"""A larger figure is displayed as `10,000+`: people don't need more, and counting takes time."""

RATE_WINDOW: Final = 10 * SECOND
"""Microseconds over which the rate is measured, as that of a source is."""


async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
    # The links contain the window that they count; on full minutes they stay the same.
    hour_ago = (now() - HOUR) // MINUTE * MINUTE
    errors = await view.history.count(
        Filter(severity=Severity.ERROR, since=hour_ago), limit=COUNT_LIMIT
    )
    states = view.sources.states()
    return {
        "rate": await measure_rate(view),
        "recent": link_to_events(since=(now() - MINUTE) // MINUTE * MINUTE),
        "errors": errors,
        "count_limit": COUNT_LIMIT,
        "errors_link": link_to_events(severity=Severity.ERROR, since=hour_ago),
        "stored": await view.history.count_stored(),
        "failing_sources": sum(state.has_problem for state in states),
    }


async def measure_rate(view: View) -> float:
    """Return the events per second that were stored, as many as the list behind the figure has: of
    all sources, also of those that other replicas run, without what is left out."""
    recent = Filter(since=now() - RATE_WINDOW)
    return await view.history.count(recent) / (RATE_WINDOW / SECOND)


def has_event(batch: Sequence[Record], filters: Filter) -> bool:
    """Whether a batch has an event."""
    return any(isinstance(record.signal, Event) for record in batch)


PANEL: Final = Panel(
    name="numbers",
    title="Now",
    template="numbers.html",
    prepare=prepare,
    is_affected=has_event,
    min_interval=1.0,
    refresh=2.0,
    bare=True,
)
