"""The kinds of panels: each module makes a plugin's declaration into a panel that renders."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from almenara import hookspecs
from almenara.panels.kinds import detail, events, log, number, series, status, table, template
from almenara.panels.panel import Panel
from almenara.panels.validation import validate_panel

BUILDERS: Final[Mapping[type[hookspecs.Panel], Callable[[str, Any, str], Panel]]] = {
    hookspecs.EventsPanel: events.build,
    hookspecs.TablePanel: table.build,
    hookspecs.DetailPanel: detail.build,
    hookspecs.StatusPanel: status.build,
    hookspecs.NumberPanel: number.build,
    hookspecs.SeriesPanel: series.build,
    hookspecs.LogPanel: log.build,
    hookspecs.TemplatePanel: template.build,
}


def build_panel(plugin: str, declaration: hookspecs.Panel, link: str = "") -> Panel:
    """Build the panel that a plugin declares.

    `link` is the address that its names link to; empty where they link to events. Raises
    `ValueError` with the panel, the plugin and the field.
    """
    validate_panel(plugin, declaration)
    return BUILDERS[type(declaration)](plugin, declaration, link)
