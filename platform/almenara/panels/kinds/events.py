"""Lists of events, newest first."""

from collections.abc import Mapping
from typing import Any

from almenara.history import Filter
from almenara.hookspecs import EventQuery, EventsPanel
from almenara.panels.event_rows import event_row
from almenara.panels.formats import encode_query
from almenara.panels.kinds.base import affected_by_events, make_panel
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Event


def build(plugin: str, declaration: EventsPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
        return {
            "events": await query_rows(view, query, filters),
            "all": "/events" + encode_query({**query.filter, **filters.to_query()}),
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        parse=Filter.from_query,
        is_affected=affected_by_events(query),
    )


async def query_rows(view: View, query: EventQuery, filters: Filter) -> list[Mapping[str, Any]]:
    """The rows of the events that match both the query and the filters."""
    merged = Filter.from_query({**filters.to_query(), **query.filter})
    records = await view.history.events(merged, limit=query.limit, is_preview=True)
    # Where both have a value for the same field, the history applied that of the query alone.
    return [
        event_row(record)
        for record in records
        if isinstance(record.signal, Event) and filters.matches(record.signal)
    ]
