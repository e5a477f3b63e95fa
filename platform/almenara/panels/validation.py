"""Checks of panels that plugins declare; each error names the panel, the plugin and the field."""

import re
from collections.abc import Sequence
from typing import Final

from almenara import hookspecs
from almenara.config import suggest
from almenara.history import Filter
from almenara.hookspecs import (
    Column,
    DetailPanel,
    EventQuery,
    EventsPanel,
    LogPanel,
    SeriesPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.panels.filters import (
    EVENT_FILTERS,
    RESOURCE_FILTERS,
    STATE_PREFIX,
    filter_names,
    is_resource_filter,
)
from almenara.structs import find_type_error

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
CUSTOM_FILTER: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""Names of filters whose meaning only the plugin knows."""
EXPORT: Final = re.compile(r"[a-z][a-z0-9]{0,19}")
MEDIA_TYPE: Final = re.compile(r"[a-z]+/[a-z0-9.+-]+")
RESOURCE_FIELDS: Final = ("name", "namespace", "kind", "status", "severity", "time", "origin")
"""Paths of columns besides `state.…` and `sample.…`."""
EVENT_FIELDS: Final = (
    "time", "type", "subject", "severity", "origin", "source", "correlation", "id", "summary",
)  # fmt: skip
"""Paths of columns of events besides `data.…` and `attributes.…`."""


def validate_panel(plugin: str, panel: hookspecs.Panel) -> None:
    """Raise `ValueError` for a panel with a wrong type, name, path or filter."""
    place = f"panel {panel.name!r} of plugin {plugin}"
    if type(panel) is hookspecs.Panel:
        raise ValueError(f"{place}: return one of the kinds of panels, such as TablePanel")
    if error := find_type_error(panel):
        raise ValueError(f"{place}: {error}")
    if not NAME.fullmatch(panel.name):
        raise ValueError(f"{place}: the name must be letters, digits, _ and - only")
    has_prepare = getattr(panel, "prepare", None) is not None
    if isinstance(panel, EventsPanel):
        _validate_columns(place, panel.columns, EVENT_FIELDS, ("data.", "attributes."))
    elif isinstance(panel, TablePanel | DetailPanel) and not has_prepare:
        _validate_columns(place, panel.columns, RESOURCE_FIELDS, ("state.", "sample."))
    if isinstance(panel, TemplatePanel):
        _validate_exports(place, panel)
    query = getattr(panel, "query", None)
    if isinstance(query, EventQuery):
        _validate_event_query(place, query)
    if isinstance(panel, SeriesPanel):
        _validate_levels(place, panel)
    if isinstance(panel, LogPanel) or has_prepare or getattr(panel, "select", None) is not None:
        _validate_custom_filters(place, panel)
    else:
        _validate_filters(place, panel, isinstance(query, EventQuery))


def _validate_exports(place: str, panel: TemplatePanel) -> None:
    names = [export.name for export in panel.exports]
    for export in panel.exports:
        if not EXPORT.fullmatch(export.name) or names.count(export.name) > 1:
            raise ValueError(
                f"{place}: the export {export.name!r} must have a name of its own, in lower-case"
                " letters and digits"
            )
        if not MEDIA_TYPE.fullmatch(export.media_type):
            raise ValueError(f"{place}: {export.media_type!r} is not a media type")


def _validate_filters(place: str, panel: hookspecs.Panel, of_events: bool) -> None:
    known = sorted(EVENT_FILTERS) if of_events else [*RESOURCE_FILTERS, f"{STATE_PREFIX}\u2026"]
    for name in filter_names(panel.filters):
        if not (name in EVENT_FILTERS if of_events else is_resource_filter(name)):
            hint = suggest(name, known)
            raise ValueError(f"{place}: {name!r} is not a filter of its query; {hint}")


def _validate_columns(
    place: str, columns: Sequence[Column], fields: Sequence[str], prefixes: tuple[str, ...]
) -> None:
    for column in columns:
        if column.path in fields or column.path.startswith(prefixes):
            continue
        hint = suggest(column.path, fields)
        raise ValueError(
            f"{place}: the path {column.path!r} of the column {column.title!r} must be one of"
            f" {', '.join(fields)}, or begin with {' or '.join(prefixes)}; {hint}"
        )


def _validate_levels(place: str, panel: SeriesPanel) -> None:
    for level in panel.levels:
        if (level.value is None) != bool(level.path):
            raise ValueError(f"{place}: the level {level.title!r} needs either a value or a path")
        if level.path and not level.path.startswith(("state.", "sample.")):
            raise ValueError(
                f"{place}: the path {level.path!r} of the level {level.title!r} must begin with"
                " state. or sample."
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
