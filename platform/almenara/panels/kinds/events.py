"""Lists of events, newest first."""

from collections.abc import Mapping
from typing import Any

from almenara.history import Filter
from almenara.hookspecs import EventQuery, EventsPanel
from almenara.panels.event_rows import decode_data, event_row
from almenara.panels.filters import find_value, matches_pattern
from almenara.panels.formats import encode_query
from almenara.panels.kinds.base import affected_by_events, make_panel
from almenara.panels.kinds.cells import RIGHT_ALIGNED, make_value_cell, refresh_of
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Event, Severity


def build(plugin: str, declaration: EventsPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
        rows = await query_rows(view, query, filters)
        return {
            "events": [_describe(row, declaration) for row in rows],
            "columns": [
                {"title": column.title, "right": column.format in RIGHT_ALIGNED}
                for column in declaration.columns
            ],
            "all": "/events" + encode_query({**query.filter, **filters.to_query()}),
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        parse=Filter.from_query,
        is_affected=affected_by_events(query),
        refresh=refresh_of(declaration),
    )


def _describe(row: Mapping[str, Any], panel: EventsPanel) -> Mapping[str, Any]:
    """A row with the severity and the cells that the panel declares."""
    event: Event = row["event"]
    severity = event.severity
    if severity == Severity.INFO:
        severity = next(
            (each for text, each in panel.severities.items() if matches_pattern(text, event.type)),
            severity,
        )
    needs_data = any(column.path.startswith("data.") for column in panel.columns)
    data = decode_data(event) if needs_data else None
    return {
        **row,
        "severity": severity.name,
        "cells": [
            make_value_cell(_value_at(row, severity, data, column.path), column)
            for column in panel.columns
        ],
    }


def _value_at(row: Mapping[str, Any], severity: Severity, data: Any, path: str) -> Any:
    """The value at the path of a column of an event; None where it is missing."""
    event: Event = row["event"]
    start, _, rest = path.partition(".")
    if start == "data":
        return find_value(data, rest)
    if start == "attributes":
        return event.attributes.get(rest)
    if path == "severity":
        return severity.name
    return row["summary"] if path == "summary" else getattr(event, path)


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
