"""Checks of panels that plugins declare; each error names the panel, the plugin and the field."""

import re
from collections.abc import Sequence
from typing import Final

from almenara import hookspecs
from almenara.config import suggest
from almenara.history import Filter
from almenara.hookspecs import Column, DetailPanel, EventQuery, LogPanel, TablePanel, TemplatePanel
from almenara.panels.filters import EVENT_FILTERS, RESOURCE_FILTERS, filter_names
from almenara.structs import find_type_error

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
CUSTOM_FILTER: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""Names of filters whose meaning only the plugin knows."""
RESOURCE_FIELDS: Final = ("name", "namespace", "kind", "status", "severity", "time", "origin")
"""Paths of columns besides `state.…` and `sample.…`."""


def validate_panel(plugin: str, panel: hookspecs.Panel) -> None:
    """Raise `ValueError` for a panel with a wrong type, name, path or filter."""
    place = f"panel {panel.name!r} of plugin {plugin}"
    if type(panel) is hookspecs.Panel:
        raise ValueError(f"{place}: return one of the kinds of panels, such as TablePanel")
    if error := find_type_error(panel):
        raise ValueError(f"{place}: {error}")
    if not NAME.fullmatch(panel.name):
        raise ValueError(f"{place}: the name must be letters, digits, _ and - only")
    if isinstance(panel, TablePanel | DetailPanel):
        _validate_columns(place, panel.columns)
    query = getattr(panel, "query", None)
    if isinstance(query, EventQuery):
        _validate_event_query(place, query)
    if isinstance(panel, LogPanel) or (isinstance(panel, TemplatePanel) and panel.prepare):
        _validate_custom_filters(place, panel)
    else:
        known = EVENT_FILTERS if isinstance(query, EventQuery) else RESOURCE_FILTERS
        for name in filter_names(panel.filters):
            if name not in known:
                hint = suggest(name, sorted(known))
                raise ValueError(f"{place}: {name!r} is not a filter of its query; {hint}")


def _validate_columns(place: str, columns: Sequence[Column]) -> None:
    for column in columns:
        if column.path in RESOURCE_FIELDS or column.path.startswith(("state.", "sample.")):
            continue
        hint = suggest(column.path, RESOURCE_FIELDS)
        raise ValueError(
            f"{place}: the path {column.path!r} of the column {column.title!r} must be one of"
            f" {', '.join(RESOURCE_FIELDS)}, or begin with state. or sample.; {hint}"
        )


def _validate_event_query(place: str, query: EventQuery) -> None:
    for name in query.filter:
        if name not in EVENT_FILTERS:
            hint = suggest(name, sorted(EVENT_FILTERS))
            raise ValueError(f"{place}: query.filter: {name!r} is not a filter; {hint}")
    try:
        Filter.from_query(query.filter)
    except ValueError as error:
        raise ValueError(f"{place}: query.filter: {error}") from None


def _validate_custom_filters(place: str, panel: hookspecs.Panel) -> None:
    for name in filter_names(panel.filters):
        if not CUSTOM_FILTER.fullmatch(name):
            raise ValueError(
                f"{place}: the filter {name!r} must be lower-case letters, digits and _"
            )
