"""The newest events with the severity ERROR or above."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.event_rows import event_row, link_to_events
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Event, Severity

ROWS: Final = 8


async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
    records = await view.history.events(
        Filter(severity=Severity.ERROR), limit=ROWS, is_preview=True
    )
    return {
        "rows": [event_row(record) for record in records],
        "all_failures": link_to_events(severity=Severity.ERROR),
    }


def has_failure(batch: Sequence[Record], filters: Filter) -> bool:
    """Whether a batch has an event with the severity ERROR or above."""
    return any(
        isinstance(record.signal, Event) and record.signal.severity >= Severity.ERROR
        for record in batch
    )


PANEL: Final = Panel(
    name="failures",
    title="Newest failures",
    template="failures.html",
    prepare=prepare,
    is_affected=has_failure,
    min_interval=0.25,
    width=5,
)
