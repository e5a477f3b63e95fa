"""Tables of resources, sortable by each column."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from almenara.hookspecs import TablePanel
from almenara.panels.data_view import PanelDataView, find_resources
from almenara.panels.filters import CustomFilters, ResourceFilters, filter_names, find_value
from almenara.panels.formats import encode_query
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.cells import (
    RIGHT_ALIGNED,
    make_rows,
    make_value_cell,
    refresh_of,
    value_at,
)
from almenara.panels.panel import Panel
from almenara.panels.slices import map_in_slices
from almenara.panels.view import View
from almenara.signals import Severity

T = TypeVar("T")


def build(plugin: str, declaration: TablePanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query
    address = f"/panels/{plugin}.{declaration.name}"
    prepare_rows = declaration.prepare

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        return await prepare_table(
            declaration, view, filters, filters.to_query(), address=address, link=link
        )

    async def prepare_own(view: View, filters: CustomFilters) -> Mapping[str, Any]:
        values = filters.to_query()
        order = order_of(declaration, values.get("sort", ""))
        rows: Sequence[Mapping[str, Any]] = ()
        if prepare_rows is not None:
            rows = await prepare_rows(PanelDataView(view), values)
        if order:
            rows = sort_by(rows, find_value, order)
        visible = rows[: query.limit]
        return {
            "columns": _headers(declaration, values, order, address),
            "rows": await map_in_slices(partial(_make_own_row, declaration), visible),
            "more": len(rows) - len(visible),
        }

    return make_panel(
        plugin,
        declaration,
        prepare if prepare_rows is None else prepare_own,
        parse=ResourceFilters.from_query if prepare_rows is None else CustomFilters.from_query,
        filters=frozenset(filter_names(declaration.filters)) | {"sort"},
        is_affected=affected_by_resources(query),
        refresh=refresh_of(declaration),
    )


async def prepare_table(
    declaration: TablePanel,
    view: View,
    filters: ResourceFilters,
    parameters: Mapping[str, str],
    *,
    address: str,
    link: str = "",
) -> Mapping[str, Any]:
    """Return the values of `kind_table.html` for the resources of a query that pass the filters.

    `parameters` are those of the address of the panel, which the headers repeat.
    """
    order, query = order_of(declaration, filters.sort), declaration.query
    resources = await find_resources(view, query, filters)
    if order:
        resources = sort_by(resources, partial(value_at, view), order)
    visible = resources[: query.limit]
    return {
        "link": link,
        "columns": _headers(declaration, parameters, order, address),
        "rows": await make_rows(view, visible, declaration),
        "more": len(resources) - len(visible),
    }


def _make_own_row(panel: TablePanel, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that the plugin has prepared."""
    link, severity = row.get("link"), row.get("severity", Severity.INFO)
    # Of this site only: a row may hold what an observed system says.
    is_own = isinstance(link, str) and link.startswith("/") and not link.startswith("//")
    return {
        "severity": severity.name if isinstance(severity, Severity) else Severity.INFO.name,
        "link": link if is_own else "",
        "cells": [make_value_cell(find_value(row, each.path), each) for each in panel.columns],
    }


def order_of(panel: TablePanel, chosen: str) -> str:
    """The path that sorts the table, `-` in front for descending; empty for by name."""
    paths = {column.path for column in panel.columns}
    return chosen if chosen.removeprefix("-") in paths else panel.sort


def sort_by(rows: Sequence[T], value_of: Callable[[T, str], Any], order: str) -> list[T]:
    """Sort by the value at a path; those without a value come last in either direction."""
    path = order.removeprefix("-")
    valued = [(value_of(row, path), row) for row in rows]
    known = [pair for pair in valued if pair[0] is not None and pair[0] != ""]
    known.sort(key=lambda pair: _sort_key(pair[0]), reverse=order.startswith("-"))
    missing = [row for value, row in valued if value is None or value == ""]
    return [row for _, row in known] + missing


def _sort_key(value: Any) -> tuple[int, Any]:
    """Orders values of any types: numbers, then texts, then the rest."""
    if isinstance(value, bool | int | float):
        return 0, value
    if isinstance(value, str):
        return 1, value.casefold()
    return 2, str(value)


def _headers(
    panel: TablePanel, filters: Mapping[str, str], order: str, address: str
) -> list[dict[str, Any]]:
    others = {name: value for name, value in filters.items() if name != "sort"}
    directions = {column.path: "ascending" for column in panel.columns if column.path == order}
    directions |= {
        column.path: "descending" for column in panel.columns if order == f"-{column.path}"
    }
    return [
        {
            "title": column.title,
            "right": column.format in RIGHT_ALIGNED,
            "sorted": directions.get(column.path, ""),
            # A second click on the same header reverses the order.
            "link": address
            + encode_query(
                {**others, "sort": f"-{column.path}" if order == column.path else column.path}
            ),
        }
        for column in panel.columns
    ]
