"""Values of resources as cells of tables and details."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import (
    Column,
    DetailPanel,
    EventsPanel,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.panels.event_rows import link_to_events
from almenara.panels.filters import find_value
from almenara.panels.formats import encode_query, format_value
from almenara.panels.kinds.samples import current_value
from almenara.panels.slices import map_in_slices
from almenara.panels.sparkline import render_sparkline
from almenara.panels.validation import RESOURCE_FIELDS
from almenara.panels.view import View
from almenara.signals import Resource, Severity

RIGHT_ALIGNED: Final = frozenset(("number", "bytes", "seconds", "percent", "age"))
"""Formats of numbers, which are compared digit by digit."""
AGE_REFRESH: Final = 5.0
"""Seconds after which a panel that shows ages is rendered again."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A value as it is displayed."""

    text: str
    format: str
    right: bool
    moment: int | None = None
    """For the format `time`: microseconds since the epoch."""
    events: str = ""
    """For a name: the address of the events about the resource."""
    sparkline: Any = ""


def severity_of(
    resource: Resource, panel: TablePanel | DetailPanel | StatusPanel | TemplatePanel
) -> str:
    """The name of a resource's severity; where it has none, that of its status."""
    if resource.severity != Severity.INFO:
        return resource.severity.name
    return panel.severities.get(resource.status, resource.severity).name


def value_at(view: View, resource: Resource, path: str) -> Any:
    """The value at the path of a column; None where it is missing."""
    if path in RESOURCE_FIELDS:
        value = getattr(resource, path)
        return value.name if isinstance(value, Severity) else value
    start, _, rest = path.partition(".")
    if start == "sample":
        return current_value(view, resource, rest)
    return find_value(resource.state, rest)


def query_of(resource: Resource) -> str:
    """The parameters of a page that is about one resource."""
    values = {"namespace": resource.namespace, "name": resource.name}
    return encode_query({name: value for name, value in values.items() if value})


def make_value_cell(value: Any, column: Column, *, events: str = "", sparkline: Any = "") -> Cell:
    """The cell of a column for a value."""
    is_time = column.format == "time" and isinstance(value, int | float)
    return Cell(
        text=format_value(value, column.format),
        format=column.format,
        right=column.format in RIGHT_ALIGNED,
        moment=int(value) if is_time else None,
        events=events,
        sparkline=sparkline,
    )


def make_cell(view: View, resource: Resource, column: Column) -> Cell:
    """The cell of a column for a resource."""
    return make_value_cell(
        value_at(view, resource, column.path),
        column,
        events=link_to_events(subject=resource.name) if column.path == "name" else "",
        sparkline=_sparkline(view, resource, column.spark) if column.spark else "",
    )


def _sparkline(view: View, resource: Resource, metric: str) -> Any:
    series = view.resources.series(resource.kind, resource.namespace, resource.name, metric)
    if len(series) < 2:
        return ""
    return render_sparkline([value for _, value in series], f"{metric} of {resource.name}")


async def make_rows(
    view: View, resources: Sequence[Resource], panel: TablePanel | DetailPanel
) -> list[dict[str, Any]]:
    """A row for each resource: its severity, the parameters of its page, and its cells."""

    def make_row(resource: Resource) -> dict[str, Any]:
        return {
            "severity": severity_of(resource, panel),
            "query": query_of(resource),
            "link": "",
            "cells": [make_cell(view, resource, column) for column in panel.columns],
        }

    return await map_in_slices(make_row, resources)


def refresh_of(panel: TablePanel | DetailPanel | EventsPanel) -> float | None:
    """Seconds after which the panel is rendered again, for its ages, and for samples that stop."""
    changes_alone = any(
        column.format == "age" or column.path.startswith("sample.") for column in panel.columns
    )
    return panel.refresh or (AGE_REFRESH if changes_alone else None)
