"""Dashboards: which panels a page holds, in which order and how wide."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.config import ConfigError, DashboardSettings, PlacedPanel
from almenara.hookspecs import Filter
from almenara.panels.panel import Panel, View, filter_names
from almenara.panels.registry import PanelRegistry, streams_of
from almenara.panels.renderer import query

OVERVIEW: Final = "overview"
MAIN: Final = "main"
"""The page of a plugin that is the plugin's own."""
GLANCED: Final = frozenset(("status", "number"))
"""The kinds that the overview takes of every plugin: what people look at, not what they read."""
PANELS_OF_A_PAGE: Final = 32
COLUMNS: Final = 12


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A panel and its place on a page."""

    panel: Panel
    width: int
    height: int = 0
    filter: Mapping[str, str] = {}

    @property
    def channel(self) -> str:
        """The name of its channel."""
        return self.panel.name + query(self.panel.choose(self.filter).to_query())

    @property
    def address(self) -> str:
        """Where it stands alone."""
        return f"/panels/{self.channel}"


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """A page of panels."""

    name: str
    title: str
    panels: Sequence[Placed]
    filters: Sequence[str] = ()
    """The filters that can be typed in on the page."""
    asked_for: Mapping[str, Filter] = {}
    """How those of them are asked for that an author said it of."""
    navigation: bool = True
    """Whether it has a place in the navigation."""

    @property
    def address(self) -> str:
        """Where it is."""
        return "/" if self.name == OVERVIEW else f"/dashboards/{self.name}"


def about(shown: Dashboard, asked: Mapping[str, str]) -> Dashboard:
    """The page with each panel given those of the parameters that are filters of its own.

    Raises `ValueError` for one that cannot be read.
    """
    return msgspec.structs.replace(shown, panels=[_narrowed(it, asked) for it in shown.panels])


def _narrowed(it: Placed, asked: Mapping[str, str]) -> Placed:
    own = {name: text for name, text in asked.items() if name in it.panel.filters}
    narrowed = msgspec.structs.replace(it, filter={**own, **it.filter})
    it.panel.choose(narrowed.filter)
    return narrowed


def placed(panel: Panel, **place: Any) -> Placed:
    """A panel, as wide and high as it wants to be where nothing else is said."""
    return Placed(
        panel=panel,
        width=place.get("width") or panel.width,
        height=place.get("height") or panel.height,
        filter=place.get("filter") or {},
    )


def dashboards(
    configured: Sequence[DashboardSettings], catalogue: PanelRegistry, view: View
) -> list[Dashboard]:
    """Every page of panels: the overview, those of plugins, and those of the configuration.

    A configured panel whose plugin is not there is left out; `check` has told of it.
    """
    found = {OVERVIEW: _overview(catalogue, view)}
    for plugin in catalogue.plugins():
        found |= {it.name: it for it in pages_of(catalogue, plugin)}
    for one in configured:
        known = [
            placed(catalogue[it.panel], width=it.width, height=it.height, filter=it.filter)
            for it in map(_place, one.panels)
            if it.panel in catalogue
        ]
        found[one.name] = Dashboard(
            name=one.name, title=one.title or _titled(one.name), panels=known
        )
    return list(found.values())


def pages_of(catalogue: PanelRegistry, plugin: str) -> Iterator[Dashboard]:
    """The plugin's own page, unless nothing is left for it, and those it brings besides."""
    pages = catalogue.pages_of(plugin)
    if not any(page.name == MAIN for page in pages):
        held = {
            panel.name
            for page in pages
            for it in map(_place, page.panels)
            if (panel := catalogue.panel_of(plugin, it.panel)) is not None
        }
        if rest := [
            placed(it)
            for it in catalogue.of_plugin(plugin)
            if it.name not in held and not it.on_overview
        ]:
            yield Dashboard(name=plugin, title=_titled(plugin), panels=rest)
    for page in pages:
        own = page.name == MAIN
        yield Dashboard(
            name=plugin if own else f"{plugin}.{page.name}",
            title=page.title,
            panels=[
                placed(panel, width=it.width, height=it.height, filter=it.filter)
                for it in map(_place, page.panels)
                if (panel := catalogue.panel_of(plugin, it.panel)) is not None
            ],
            filters=filter_names(page.filters),
            asked_for={it.name: it for it in page.filters if isinstance(it, Filter)},
            navigation=own or page.navigation,
        )


def _overview(catalogue: PanelRegistry, view: View) -> Dashboard:
    names = ["strip", "numbers", "histogram"]
    brought = [it for plugin in catalogue.plugins() for it in glanced(catalogue, plugin)]
    last = [placed(catalogue["failures"])]
    if streams_of(view) or not brought:
        last.insert(0, placed(catalogue["streams"]))
    else:
        last = [placed(catalogue["failures"], width=12)]
    panels = [*(placed(catalogue[name]) for name in names), *filled(brought), *last]
    return Dashboard(name=OVERVIEW, title="Overview", panels=panels[:PANELS_OF_A_PAGE])


def glanced(catalogue: PanelRegistry, plugin: str) -> Iterator[Placed]:
    """What the overview shows of a plugin: what it brings for that or, where it brings nothing,
    what people look at on its pages."""
    brought = [placed(it) for it in catalogue.of_plugin(plugin) if it.on_overview]
    yield from brought or (
        it
        for page in pages_of(catalogue, plugin)
        if page.navigation
        for it in page.panels
        if it.panel.plugin == plugin and it.panel.kind in GLANCED
    )


def filled(panels: Sequence[Placed]) -> list[Placed]:
    """The panels with the last of each row as wide as its row has room for."""
    rows: list[list[Placed]] = []
    for it in panels:
        if rows and sum(other.width for other in rows[-1]) + it.width <= COLUMNS:
            rows[-1].append(it)
        else:
            rows.append([it])
    for row in rows:
        rest = COLUMNS - sum(it.width for it in row)
        row[-1] = msgspec.structs.replace(row[-1], width=row[-1].width + rest)
    return [it for row in rows for it in row]


def _titled(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").capitalize()


def _place(written: PlacedPanel | str) -> PlacedPanel:
    return PlacedPanel(panel=written) if isinstance(written, str) else written


def check(
    configured: Sequence[DashboardSettings], catalogue: PanelRegistry, absent: Sequence[str]
) -> None:
    """Raise `ConfigError` for a configured dashboard that cannot be what it says.

    Panels of the plugins in `absent`, which failed or are disabled, cannot be checked.
    """
    names: set[str] = set()
    for number, one in enumerate(configured):
        place = f"dashboards[{number}]"
        if one.name in names:
            raise ConfigError(f"{place}.name: there are two dashboards named {one.name}")
        names.add(one.name)
        if len(one.panels) > PANELS_OF_A_PAGE:
            raise ConfigError(
                f"{place}.panels: a page holds {PANELS_OF_A_PAGE} panels at most, and these are"
                f" {len(one.panels)}; make two dashboards of them"
            )
        seen: set[str] = set()
        for position, written in enumerate(one.panels):
            _check_panel(f"{place}.panels[{position}]", _place(written), seen, catalogue, absent)


def _check_panel(
    spot: str, wanted: PlacedPanel, seen: set[str], catalogue: PanelRegistry, absent: Sequence[str]
) -> None:
    if wanted.panel in seen:
        raise ConfigError(f"{spot}: {wanted.panel} is on this page already")
    seen.add(wanted.panel)
    panel = catalogue.get(wanted.panel)
    if panel is None:
        if wanted.panel.partition(".")[0] in absent:
            return
        near = difflib.get_close_matches(wanted.panel, catalogue, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(catalogue))}"
        raise ConfigError(f"{spot}: there is no panel {wanted.panel!r}; {hint}")
    for name in wanted.filter:
        if name not in panel.filters:
            known = ", ".join(sorted(panel.filters)) or "none"
            raise ConfigError(
                f"{spot}.filter.{name}: {panel.name} has no such filter; it accepts {known}"
            )
    try:
        panel.choose(wanted.filter)
    except ValueError as error:
        raise ConfigError(f"{spot}.filter: {error}") from None
