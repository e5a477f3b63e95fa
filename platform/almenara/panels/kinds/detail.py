"""The facts about one resource, or a few."""

from collections.abc import Mapping
from typing import Any

from almenara.hookspecs import DetailPanel
from almenara.panels.data_view import find_resources
from almenara.panels.filters import ResourceFilters
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.cells import make_rows, refresh_of
from almenara.panels.panel import Panel
from almenara.panels.view import View


def build(plugin: str, declaration: DetailPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        resources = await find_resources(view, query, filters)
        visible = resources[: query.limit]
        return {
            "link": link,
            "titles": [column.title for column in declaration.columns],
            "rows": await make_rows(view, visible, declaration),
            "more": len(resources) - len(visible),
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        is_affected=affected_by_resources(query),
        refresh=refresh_of(declaration),
    )
