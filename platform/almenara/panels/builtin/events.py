"""The list of all events, to which new ones are added at the top."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.history import Filter
from almenara.panels.event_rows import event_row
from almenara.panels.filters import EVENT_FILTERS
from almenara.panels.panel import Panel, has_matching_event
from almenara.panels.view import View


async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
    records = await view.history.events(
        filters, limit=view.settings.visible_events, is_preview=True
    )
    return {"rows": [event_row(record) for record in records]}


PANEL: Final = Panel(
    name="events",
    title="Events",
    template="events.html",
    prepare=prepare,
    is_affected=has_matching_event,
    filters=EVENT_FILTERS,
    is_event_list=True,
)
