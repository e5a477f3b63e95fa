"""Drawing a panel as a page would, from signals that a test gives."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.hookspecs import LogStream, Page, Panel
from almenara.live.log_feed import LogFeeds
from almenara.panels.panel import View
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.plugins import PluginRegistry, find_plugin
from almenara.signals import Signal
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor
from almenara.testing.running import MemoryContext


async def draw(
    plugin: str,
    panels: Sequence[Panel],
    templates: Path | Mapping[str, str] | None,
    signals: Sequence[Signal],
    query: Mapping[str, str] | None = None,
    *,
    pages: Sequence[Page] = (),
    tails: Sequence[LogStream] = (),
    only: str = "",
) -> dict[str, str]:
    """Each panel, or the `only` one, by its whole name, drawn of these signals.

    Raises `ValueError` for one that cannot be what its author wants.
    """
    renderer = Renderer()
    catalogue = PanelRegistry(renderer)
    catalogue.add(plugin, panels, templates, pages)
    feeds = LogFeeds()
    feeds.add(plugin, tails)
    renderer.environment.globals["asset"] = lambda name: f"/static/{name}"
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedBus(StorageSettings(dir=Path(folder))) as bus:
            await bus.publish(signals, plugin)
            resources = Resources()
            await resources.rebuild(bus)
            view = View(
                bus=bus, history=History(bus), resources=resources,
                supervisor=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
                feeds=feeds,
            )  # fmt: skip
            try:
                return {
                    panel.name: await panel.render(view, panel.choose(query or {}), renderer)
                    for panel in catalogue.of_plugin(plugin)
                    if not only or panel.name == f"{plugin}.{only}"
                }
            finally:
                await feeds.close()


async def render_panel(
    plugin: str,
    panel: str,
    signals: Sequence[Signal],
    *,
    settings: Mapping[str, Any] | None = None,
    query: Mapping[str, str] | None = None,
) -> str:
    """The HTML of a plugin's panel, drawn of these signals.

    `plugin` is an installed plugin's name or the path of one; `panel` is the panel's own name;
    `query` are filters, as the address of the panel has them.
    """
    plugins = PluginRegistry()
    found = find_plugin(plugin)
    plugins.load(found)
    known = plugins.decode_settings(found.name, settings or {})
    panels = plugins.hooks.panels(found.name, known)
    with tempfile.TemporaryDirectory() as data_dir:
        drawn = await draw(
            found.name, panels, plugins.hooks.templates(found.name), signals, query,
            pages=plugins.hooks.pages(found.name, known),
            tails=plugins.hooks.log_streams(found.name, known, MemoryContext(Path(data_dir))),
            only=panel,
        )  # fmt: skip
    try:
        return drawn[f"{found.name}.{panel}"]
    except KeyError:
        names = ", ".join(it.name for it in panels) or "none"
        raise ValueError(f"{found.name} has no panel {panel!r}; it has {names}") from None
