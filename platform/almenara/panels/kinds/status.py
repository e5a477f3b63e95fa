"""Chips with the status of each resource, the worst first."""

from collections.abc import Mapping
from typing import Any

from almenara.hookspecs import StatusPanel
from almenara.panels.data_view import find_resources
from almenara.panels.event_rows import link_to_events
from almenara.panels.filters import ResourceFilters
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.cells import query_of, severity_of
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Severity


def build(plugin: str, declaration: StatusPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        resources = await find_resources(view, query, filters)
        # What is wrong comes first, so that a strip that is cut off still shows it.
        resources.sort(key=lambda resource: -Severity[severity_of(resource, declaration)])
        visible = resources[: query.limit]
        return {
            "link": link,
            "rows": [
                {
                    "name": resource.name,
                    "namespace": resource.namespace,
                    "status": resource.status,
                    "severity": severity_of(resource, declaration),
                    "query": query_of(resource),
                    "events": link_to_events(subject=resource.name),
                }
                for resource in visible
            ],
            "more": len(resources) - len(visible),
        }

    return make_panel(plugin, declaration, prepare, is_affected=affected_by_resources(query))
