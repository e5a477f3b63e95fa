"""Tables of resources, sortable by each column."""

from collections.abc import Mapping, Sequence
from typing import Any

from almenara.hookspecs import TablePanel
from almenara.panels.data_view import find_resources
from almenara.panels.filters import ResourceFilters, filter_names
from almenara.panels.formats import encode_query
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.cells import RIGHT_ALIGNED, make_rows, refresh_of, value_at
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Resource


def build(plugin: str, declaration: TablePanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query
    address = f"/panels/{plugin}.{declaration.name}"

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        order = order_of(declaration, filters)
        resources = await find_resources(view, query, filters)
        if order:
            resources = sort_resources(view, resources, order)
        visible = resources[: query.limit]
        return {
            "link": link,
            "columns": _headers(declaration, filters, order, address),
            "rows": await make_rows(view, visible, declaration),
            "more": len(resources) - len(visible),
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        filters=frozenset(filter_names(declaration.filters)) | {"sort"},
        is_affected=affected_by_resources(query),
        refresh=refresh_of(declaration),
    )


def order_of(panel: TablePanel, filters: ResourceFilters) -> str:
    """The path that sorts the table, `-` in front for descending; empty for by name."""
    paths = {column.path for column in panel.columns}
    return filters.sort if filters.sort.removeprefix("-") in paths else panel.sort


def sort_resources(view: View, resources: Sequence[Resource], order: str) -> list[Resource]:
    """Sort by the value at a path; those without a value come last in either direction."""
    path = order.removeprefix("-")
    valued = [(value_at(view, resource, path), resource) for resource in resources]
    known = [pair for pair in valued if pair[0] is not None and pair[0] != ""]
    known.sort(key=lambda pair: _sort_key(pair[0]), reverse=order.startswith("-"))
    missing = [resource for value, resource in valued if value is None or value == ""]
    return [resource for _, resource in known] + missing


def _sort_key(value: Any) -> tuple[int, Any]:
    """Orders values of any types: numbers, then texts, then the rest."""
    if isinstance(value, bool | int | float):
        return 0, value
    if isinstance(value, str):
        return 1, value.casefold()
    return 2, str(value)


def _headers(
    panel: TablePanel, filters: ResourceFilters, order: str, address: str
) -> list[dict[str, Any]]:
    others = {name: value for name, value in filters.to_query().items() if name != "sort"}
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
