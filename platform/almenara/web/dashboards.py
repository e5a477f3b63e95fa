"""Dashboards: which panels a page has, in which order and how wide."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.config import ConfigError, DashboardSettings, PlacedPanel
from almenara.config.suggestions import suggest
from almenara.hookspecs import Filter
from almenara.panels.filters import PanelFilters, filter_names
from almenara.panels.formats import encode_query
from almenara.panels.panel import Panel
from almenara.panels.registry import PanelRegistry
from almenara.panels.time_window import LIVE, TimeWindow

OVERVIEW: Final = "overview"
DEFAULT_DASHBOARD: Final = OVERVIEW
"""The dashboard at `/`, where a viewer arrives after signing in."""
MAIN: Final = "main"
"""The name of a plugin's page that stands at the plugin's own name."""
OVERVIEW_KINDS: Final = frozenset(("status", "number"))
"""The kinds of panels that the overview takes from a plugin that marks none for it."""
LARGEST_PAGE: Final = 32
"""Panels of one page at most."""
COLUMNS: Final = 12
"""Columns of the grid of a page."""


class PanelPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A panel on a page, with its width in columns, its height in rows and fixed filters."""

    panel: Panel
    width: int
    height: int = 0
    filter: Mapping[str, str] = {}
    title: str = ""
    """In place of the panel's own title."""

    @property
    def heading(self) -> str:
        """Its title on the page."""
        return self.title or self.panel.title

    @property
    def anchor(self) -> str:
        """The id of its element."""
        return self.panel.anchor_for(self.panel.parse_filters(self.filter))

    @property
    def key(self) -> str:
        """What it is on its page: the panel and its filters."""
        return self.channel()

    @property
    def chart_address(self) -> str:
        """The address of the data of a chart."""
        return chart_address(self.panel, self.panel.parse_filters(self.filter))

    def channel(self, window: TimeWindow = LIVE) -> str:
        """The name of its channel: the panel, its filters and the time window."""
        return self.panel.channel(self.panel.parse_filters(self.filter), window)

    @property
    def address(self) -> str:
        """The address of the page with this panel alone."""
        filters = self.panel.parse_filters(self.filter)
        return f"/panels/{self.panel.name}{encode_query(filters.to_query())}"


def chart_address(panel: Panel, filters: PanelFilters) -> str:
    """Return the address of the data of a chart with its filters."""
    return f"/api/charts/{panel.name}{encode_query(filters.to_query())}"


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """A page of panels."""

    name: str
    title: str
    panels: Sequence[PanelPlace]
    filters: Sequence[str] = ()
    """The filters of its form."""
    filter_fields: Mapping[str, Filter] = {}
    """How the form shows those filters that the author declared with a label, hint or choices."""
    navigation: bool = True
    """Whether it is in the navigation."""
    order: int = 0
    """Its place there: lower ones come first."""
    icon: str = ""
    """The static file with its image there; empty for none."""
    is_saved: bool = False
    """Whether it was made in the browser."""

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters that its address can have."""
        return frozenset[str]().union(*(place.panel.filters for place in self.panels))

    @property
    def address(self) -> str:
        """Its address."""
        return "/" if self.name == DEFAULT_DASHBOARD else f"/dashboards/{self.name}"


def apply_filters(dashboard: Dashboard, values: Mapping[str, str]) -> Dashboard:
    """Return the dashboard with each panel narrowed by those values that are filters of its own.

    A filter that is fixed for a panel wins. Raises `ValueError` for an invalid value.
    """
    places = [_narrow(place, values) for place in dashboard.panels]
    return msgspec.structs.replace(dashboard, panels=places)


def _narrow(place: PanelPlace, values: Mapping[str, str]) -> PanelPlace:
    own = {name: text for name, text in values.items() if name in place.panel.filters}
    narrowed = msgspec.structs.replace(place, filter={**own, **place.filter})
    place.panel.parse_filters(narrowed.filter)
    return narrowed


def place_panel(panel: Panel, **options: Any) -> PanelPlace:
    """Place a panel; without a width or height in `options` it gets those it declares."""
    return PanelPlace(
        panel=panel,
        width=options.get("width") or panel.width,
        height=options.get("height") or panel.height,
        filter=options.get("filter") or {},
        title=options.get("title") or "",
    )


def build_dashboards(
    configured: Sequence[DashboardSettings],
    registry: PanelRegistry,
    *,
    has_alerting: bool = False,
) -> list[Dashboard]:
    """Return all dashboards: the overview, those of plugins, and those of the configuration.

    A configured one replaces a plugin's of the same name. A configured panel whose plugin is not
    loaded is left out; `check` has reported it at the start.
    """
    by_name = {OVERVIEW: build_overview(registry, has_alerting=has_alerting)}
    for plugin in registry.plugins():
        by_name |= {dashboard.name: dashboard for dashboard in build_plugin_pages(registry, plugin)}
    for settings in configured:
        by_name[settings.name] = build_configured(settings, registry)
    return list(by_name.values())


def build_configured(settings: DashboardSettings, registry: PanelRegistry) -> Dashboard:
    """Return a dashboard of the configuration, without panels of plugins that are not loaded."""
    places = [
        place_panel(
            registry[placed.panel],
            width=placed.width,
            height=placed.height,
            filter=placed.filter,
            title=placed.title,
        )
        for placed in map(_as_placed, settings.panels)
        if placed.panel in registry
    ]
    return Dashboard(
        name=settings.name, title=settings.title or _title(settings.name), panels=places
    )


def build_saved(settings: DashboardSettings, registry: PanelRegistry) -> Dashboard:
    """Return a dashboard that was made in the browser; the list of dashboards links to it."""
    dashboard = build_configured(settings, registry)
    places = [place for place in dashboard.panels if _has_valid_filters(place)]
    return msgspec.structs.replace(dashboard, panels=places, navigation=False, is_saved=True)


def _has_valid_filters(place: PanelPlace) -> bool:
    """Whether a panel still has the filters with which it was saved."""
    try:
        place.panel.parse_filters(place.filter)
    except ValueError:
        return False
    return True


def build_plugin_pages(registry: PanelRegistry, plugin: str) -> Iterator[Dashboard]:
    """Yield the pages of a plugin: those it declares, and first one of all its other panels."""
    pages = registry.pages_of(plugin)
    if not any(page.name == MAIN for page in pages):
        on_pages = {
            panel.name
            for page in pages
            for placed in map(_as_placed, page.panels)
            if (panel := registry.panel_of(plugin, placed.panel)) is not None
        }
        rest = [
            place_panel(panel)
            for panel in registry.of_plugin(plugin)
            if panel.name not in on_pages and not panel.on_overview
        ]
        if rest:
            yield Dashboard(name=plugin, title=_title(plugin), panels=rest)
    for page in pages:
        is_main = page.name == MAIN
        yield Dashboard(
            name=plugin if is_main else f"{plugin}.{page.name}",
            title=page.title,
            panels=[
                place_panel(
                    panel,
                    width=placed.width,
                    height=placed.height,
                    filter=placed.filter,
                    title=placed.title,
                )
                for placed in map(_as_placed, page.panels)
                if (panel := registry.panel_of(plugin, placed.panel)) is not None
            ],
            filters=filter_names(page.filters),
            filter_fields={
                field.name: field for field in page.filters if isinstance(field, Filter)
            },
            navigation=is_main or page.navigation,
            order=page.order,
            icon=f"{plugin}/{page.icon}" if page.icon else "",
        )


def build_overview(registry: PanelRegistry, *, has_alerting: bool) -> Dashboard:
    """Return the overview: the core's panels around those that plugins have for it."""
    names = ("strip", "attention", "numbers", "histogram")
    first = [place_panel(registry[name]) for name in names if has_alerting or name != "attention"]
    of_plugins = [
        place for plugin in registry.plugins() for place in select_for_overview(registry, plugin)
    ]
    # Narrow panels first, so that they share their rows.
    of_plugins.sort(key=lambda place: (place.width > COLUMNS // 2, place.panel.kind == "status"))
    panels = [*first, *fill_rows([*of_plugins, place_panel(registry["failures"])])]
    return Dashboard(name=OVERVIEW, title="Overview", panels=panels[:LARGEST_PAGE])


def select_for_overview(registry: PanelRegistry, plugin: str) -> Iterator[PanelPlace]:
    """Yield the panels of a plugin that the overview shows.

    These are the panels it marks with `on_overview` or, without any, the panels of the kinds
    `status` and `number` on its pages in the navigation.
    """
    marked = [place_panel(panel) for panel in registry.of_plugin(plugin) if panel.on_overview]
    places = marked or (
        place
        for page in build_plugin_pages(registry, plugin)
        if page.navigation
        for place in page.panels
        if place.panel.plugin == plugin and place.panel.kind in OVERVIEW_KINDS
    )
    for place in places:
        # The chips of a status panel are few on most installations: three panels share a row.
        is_narrow = place.panel.kind == "status"
        yield msgspec.structs.replace(place, width=COLUMNS // 3) if is_narrow else place


def fill_rows(places: Sequence[PanelPlace]) -> list[PanelPlace]:
    """Return the panels with the last of each row widened to the end of the row."""
    rows: list[list[PanelPlace]] = []
    for place in places:
        if rows and sum(other.width for other in rows[-1]) + place.width <= COLUMNS:
            rows[-1].append(place)
        else:
            rows.append([place])
    for row in rows:
        rest = COLUMNS - sum(place.width for place in row)
        row[-1] = msgspec.structs.replace(row[-1], width=row[-1].width + rest)
    return [place for row in rows for place in row]


def _title(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").capitalize()


def _as_placed(panel: PlacedPanel | str) -> PlacedPanel:
    return PlacedPanel(panel=panel) if isinstance(panel, str) else panel


def check(
    configured: Sequence[DashboardSettings], registry: PanelRegistry, unavailable: Sequence[str]
) -> None:
    """Raise `ConfigError` for an invalid dashboard of the configuration.

    Panels of the `unavailable` plugins, which failed or are disabled, are not checked.
    """
    names: set[str] = set()
    for number, settings in enumerate(configured):
        path = f"dashboards[{number}]"
        if settings.name in names:
            raise ConfigError(f"{path}.name: there are two dashboards named {settings.name}")
        names.add(settings.name)
        if len(settings.panels) > LARGEST_PAGE:
            raise ConfigError(
                f"{path}.panels: a page has at most {LARGEST_PAGE} panels, not"
                f" {len(settings.panels)}; split it into two dashboards"
            )
        on_page: set[str] = set()
        for position, panel in enumerate(settings.panels):
            panel_path = f"{path}.panels[{position}]"
            _check_panel(panel_path, _as_placed(panel), on_page, registry, unavailable)


def _check_panel(
    path: str,
    placed: PlacedPanel,
    on_page: set[str],
    registry: PanelRegistry,
    unavailable: Sequence[str],
) -> None:
    panel = registry.get(placed.panel)
    is_repeatable = panel is not None and panel.is_repeatable
    place = placed.panel + (encode_query(placed.filter) if is_repeatable else "")
    if place in on_page:
        with_filter = " with this filter" if is_repeatable else ""
        raise ConfigError(f"{path}: {placed.panel} is already on this page{with_filter}")
    on_page.add(place)
    if panel is None:
        if placed.panel.partition(".")[0] in unavailable:
            return
        raise ConfigError(
            f"{path}: there is no panel {placed.panel!r}; {suggest(placed.panel, sorted(registry))}"
        )
    for name in placed.filter:
        if name not in panel.filters:
            known = ", ".join(sorted(panel.filters)) or "none"
            raise ConfigError(
                f"{path}.filter.{name}: {panel.name} has no such filter; its filters: {known}"
            )
    try:
        panel.parse_filters(placed.filter)
    except ValueError as error:
        raise ConfigError(f"{path}.filter: {error}") from None
