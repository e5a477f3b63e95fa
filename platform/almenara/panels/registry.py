"""Every panel and page by name: the core's, and those of the plugins that are loaded."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from almenara import hookspecs
from almenara.config import suggest
from almenara.hookspecs import Page
from almenara.panels import explorer, resource_table
from almenara.panels.builtin import BUILTIN_PANELS
from almenara.panels.kinds import build_panel
from almenara.panels.panel import Panel
from almenara.panels.renderer import Renderer
from almenara.panels.validation import NAME
from almenara.panels.view import View


def resolve_link(
    plugin: str,
    declaration: hookspecs.Panel,
    panels: Sequence[hookspecs.Panel],
    pages: Sequence[Page],
) -> str:
    """The address that the names in a panel link to; empty where they link to events.

    Raises `ValueError` for a link to a page or panel that the plugin does not have.
    """
    link: str = getattr(declaration, "link", "")
    if not link:
        return ""
    page_names, panel_names = [each.name for each in pages], [each.name for each in panels]
    if link in page_names:
        return f"/dashboards/{plugin}.{link}"
    if link in panel_names:
        return f"/panels/{plugin}.{link}"
    raise ValueError(
        f"panel {declaration.name!r} of plugin {plugin}: its link {link!r} is neither a page"
        f" nor a panel of the plugin; {suggest(link, [*page_names, *panel_names])}"
    )


class PanelRegistry(Mapping[str, Panel]):
    """Every panel by its full name; plugins add theirs and remove them when they are reloaded."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._panels = {
            panel.name: panel for panel in (*BUILTIN_PANELS, explorer.PANEL, resource_table.PANEL)
        }
        self._pages: dict[str, list[Page]] = {}

    def __getitem__(self, name: str) -> Panel:
        return self._panels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._panels)

    def __len__(self) -> int:
        return len(self._panels)

    def add(
        self,
        plugin: str,
        panels: Sequence[hookspecs.Panel],
        templates: Path | Mapping[str, str] | None,
        pages: Sequence[Page] = (),
    ) -> None:
        """Add the panels, pages and templates of a plugin.

        Raises `ValueError` with everything that is wrong; what is right is added nevertheless.
        """
        if templates is not None:
            self.renderer.add(plugin, templates)
        errors: list[str] = []
        for declaration in panels:
            try:
                self._add_panel(plugin, declaration, panels, pages)
            except ValueError as error:
                errors.append(str(error))
        for page in pages:
            try:
                self._add_page(plugin, page)
            except ValueError as error:
                errors.append(str(error))
        if errors:
            raise ValueError("; ".join(errors))

    def _add_panel(
        self,
        plugin: str,
        declaration: hookspecs.Panel,
        panels: Sequence[hookspecs.Panel],
        pages: Sequence[Page],
    ) -> None:
        link = resolve_link(plugin, declaration, panels, pages)
        panel = build_panel(plugin, declaration, link)
        if panel.name in self._panels:
            raise ValueError(f"plugin {plugin} has two panels named {declaration.name!r}")
        self._panels[panel.name] = panel

    def _add_page(self, plugin: str, page: Page) -> None:
        place = f"page {page.name!r} of plugin {plugin}"
        if not NAME.fullmatch(page.name):
            raise ValueError(f"{place}: the name must be letters, digits, _ and - only")
        known = self._pages.setdefault(plugin, [])
        if any(other.name == page.name for other in known):
            raise ValueError(f"{place}: the plugin has two pages of this name")
        for placed in page.panels:
            name = placed if isinstance(placed, str) else placed.panel
            if self.panel_of(plugin, name) is None:
                own = [panel.name.partition(".")[2] for panel in self.of_plugin(plugin)]
                raise ValueError(f"{place}: there is no panel {name!r}; {suggest(name, own)}")
        known.append(page)

    def panel_of(self, plugin: str, name: str) -> Panel | None:
        """The panel that a page of a plugin names: one of its own, or another's full name."""
        return self._panels.get(f"{plugin}.{name}") or self._panels.get(name)

    def pages_of(self, plugin: str) -> Sequence[Page]:
        """The pages of a plugin, in its order."""
        return self._pages.get(plugin, ())

    def remove(self, plugin: str) -> None:
        """Remove the panels, pages and templates of a plugin."""
        self.renderer.remove(plugin)
        self._pages.pop(plugin, None)
        self._panels = {
            name: panel for name, panel in self._panels.items() if panel.plugin != plugin
        }

    def names_for(self, view: View) -> list[str]:
        """The panels that may be named to a viewer: the core's, and those of visible sources."""
        if view.scope.sees_all_sources:
            return list(self._panels)
        plugins = {"", *(state.plugin for state in view.sources.states())}
        return [name for name, panel in self._panels.items() if panel.plugin in plugins]

    def of_plugin(self, plugin: str) -> list[Panel]:
        """The panels of a plugin, in its order."""
        return [panel for panel in self._panels.values() if panel.plugin == plugin]

    def plugins(self) -> list[str]:
        """The names of the plugins that have panels, sorted."""
        return sorted({panel.plugin for panel in self._panels.values() if panel.plugin})
