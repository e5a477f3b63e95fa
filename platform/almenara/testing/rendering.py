"""Panels rendered as on a page, from signals that a test passes."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.hookspecs import LogStream, Page, Panel, TextStream
from almenara.live.log_feed import LogFeeds
from almenara.live.text_streams import TextStreams
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.plugins import PluginRegistry, find_plugin
from almenara.signals import Signal
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor
from almenara.testing.source_run import MemoryContext


async def render_panels(
    plugin: str,
    panels: Sequence[Panel],
    templates: Path | Mapping[str, str] | None,
    signals: Sequence[Signal],
    query: Mapping[str, str] | None = None,
    *,
    pages: Sequence[Page] = (),
    log_streams: Sequence[LogStream] = (),
    text_streams: Sequence[TextStream] = (),
    only: str = "",
) -> dict[str, str]:
    """Render each panel, or `only` one, of these signals; return HTML by the panel's full name.

    Raises `ValueError` for a panel that cannot be registered.
    """
    renderer = Renderer()
    registry = PanelRegistry(renderer)
    registry.add(plugin, panels, templates, pages)
    feeds = LogFeeds()
    feeds.add(plugin, log_streams)
    texts = TextStreams()
    texts.add(plugin, text_streams)
    renderer.environment.globals["asset"] = lambda name: f"/static/{name}"
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedBus(StorageSettings(dir=Path(folder))) as bus:
            bus.select_stored = texts.select_stored
            await bus.publish(signals, plugin)
            resources = Resources()
            await resources.rebuild(bus)
            view = View(
                bus=bus, history=History(bus), resources=resources,
                sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
                log_feeds=feeds, text_streams=texts,
            )  # fmt: skip
            try:
                return {
                    panel.name: await panel.render(view, panel.parse_filters(query or {}), renderer)
                    for panel in registry.of_plugin(plugin)
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
    """Render a panel of a plugin from these signals; return its HTML.

    `plugin` is the name of an installed plugin or the path of one; `panel` is the panel's own name;
    `query` holds filters as in the address of the panel. Raises `ValueError` for an unknown panel.
    """
    plugins = PluginRegistry()
    candidate = find_plugin(plugin)
    plugins.load(candidate)
    known = plugins.decode_settings(candidate.name, settings or {})
    panels = plugins.hooks.panels(candidate.name, known)
    with tempfile.TemporaryDirectory() as data_dir:
        context = MemoryContext(Path(data_dir))
        rendered = await render_panels(
            candidate.name, panels, plugins.hooks.templates(candidate.name), signals, query,
            pages=plugins.hooks.pages(candidate.name, known),
            log_streams=plugins.hooks.log_streams(candidate.name, known, context),
            text_streams=plugins.hooks.text_streams(candidate.name, known, context),
            only=panel,
        )  # fmt: skip
    try:
        return rendered[f"{candidate.name}.{panel}"]
    except KeyError:
        names = ", ".join(each.name for each in panels) or "none"
        raise ValueError(
            f"plugin {candidate.name} has no panel {panel!r}; known: {names}"
        ) from None
