"""The Sources page: the status of each source, the streams and the plugins."""

from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency

from almenara.plugins import PluginInfo
from almenara.web.authorization import VIEWER
from almenara.web.layout import PageRequest, render_page, render_panel
from almenara.web.services import Services
from almenara.web.timed_view import read_time

PANELS: Final = ("sources",)
SEVERITIES: Final = {"failed": "ERROR", "disabled": "DEBUG"}
"""The severity that the state of a plugin is displayed with; INFO for the others."""


@get("/sources", name="sources", opt=VIEWER, include_in_schema=False)
async def sources(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the Sources page. Plugins are listed for viewers whose scope has no limit."""
    timed = await read_time(services, request)
    view = timed.view
    panels = [services.panels[name] for name in PANELS]
    return render_page(
        services,
        request,
        "sources_page.html",
        {
            "panels": {
                panel.name: await render_panel(services, view, panel, panel.parse_filters({}))
                for panel in panels
            },
            "plugins": (
                [describe_plugin(plugin) for plugin in services.list_plugins()]
                if view.scope.sees_all_sources
                else []
            ),
        },
        name="sources",
        title="Sources",
        channels=[panel.channel(panel.parse_filters({}), timed.window) for panel in panels],
        status_code=400 if timed.problem else 200,
    )


def describe_plugin(plugin: PluginInfo) -> dict[str, Any]:
    """Return a row of the table of plugins."""
    return {
        "name": plugin.name,
        "state": plugin.state,
        "severity": SEVERITIES.get(plugin.state, "INFO"),
        "version": plugin.version,
        "origin": plugin.origin,
        "api_version": plugin.api_version,
        "hooks": ", ".join(hook.removeprefix("almenara_") for hook in plugin.hooks),
        "error": plugin.error,
    }
