"""Panels that a template of the plugin renders."""

from collections.abc import Callable, Mapping
from typing import Any

from almenara import hookspecs
from almenara.history import Filter
from almenara.hookspecs import EventQuery, ResourceQuery, SampleQuery, TemplatePanel
from almenara.panels.data_view import PanelDataView, find_resources
from almenara.panels.filters import CustomFilters, PanelFilters, ResourceFilters
from almenara.panels.kinds.base import affected_by_events, affected_by_resources, make_panel
from almenara.panels.kinds.cells import severity_of
from almenara.panels.kinds.events import query_rows
from almenara.panels.kinds.samples import select_series
from almenara.panels.live_texts import read_texts
from almenara.panels.panel import Panel, Prepare
from almenara.panels.view import View


def build(plugin: str, declaration: TemplatePanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query
    prepare: Prepare
    parse: Callable[[Mapping[str, str]], PanelFilters]
    if declaration.prepare is not None:
        prepare, parse = _prepare_with(declaration.prepare), CustomFilters.from_query
        if declaration.texts:
            prepare = _add_texts(prepare, plugin, declaration.texts)
    elif isinstance(query, EventQuery):
        prepare, parse = _prepare_events(query), Filter.from_query
    elif isinstance(query, ResourceQuery):
        prepare, parse = _prepare_resources(query, declaration), ResourceFilters.from_query
    else:
        prepare, parse = _prepare_series(query), ResourceFilters.from_query
    return make_panel(
        plugin,
        declaration,
        prepare,
        template=f"{plugin}/{declaration.template}",
        parse=parse,
        text_stream=declaration.texts,
        exports=declaration.exports,
        is_affected=affected_by_events(query)
        if isinstance(query, EventQuery)
        else affected_by_resources(query),
    )


def _prepare_with(prepare_values: hookspecs.Prepare) -> Prepare:
    async def prepare(view: View, filters: CustomFilters) -> Mapping[str, Any]:
        return await prepare_values(PanelDataView(view), filters.to_query())

    return prepare


def _add_texts(prepare: Prepare, plugin: str, stream: str) -> Prepare:
    """Add the live texts of a stream to the values of a template."""

    async def prepare_with_texts(view: View, filters: CustomFilters) -> Mapping[str, Any]:
        return {
            **await prepare(view, filters),
            "texts": read_texts(view, plugin, stream, filters),
        }

    return prepare_with_texts


def _prepare_events(query: EventQuery) -> Prepare:
    async def prepare(view: View, filters: Filter) -> Mapping[str, Any]:
        return {"events": await query_rows(view, query, filters)}

    return prepare


def _prepare_resources(query: ResourceQuery, declaration: TemplatePanel) -> Prepare:
    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        resources = await find_resources(view, query, filters)
        return {
            "resources": [
                {
                    "resource": resource,
                    "severity": severity_of(resource, declaration),
                    "samples": view.resources.metrics(resource),
                }
                for resource in resources[: query.limit]
            ]
        }

    return prepare


def _prepare_series(query: SampleQuery) -> Prepare:
    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        return {
            "series": [
                {"resource": resource, "points": points, "newest": points[-1][1]}
                for resource, points in select_series(view, query, filters)[: query.limit]
            ]
        }

    return prepare
