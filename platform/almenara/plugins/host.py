"""Plugins put into a running Almenara, and taken out of it again."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog

from almenara.bus.embedded import EmbeddedBus
from almenara.config import ConfigError, Settings
from almenara.errors import describe_error
from almenara.hookspecs import Context, Page, Panel
from almenara.live.log_feed import LogFeeds
from almenara.plugins import PluginContext, PluginError, PluginRegistry
from almenara.supervisor import Supervisor
from almenara.supervisor.protocol import Start

log = structlog.get_logger(__name__)


class PanelRegistry(Protocol):
    """Where panels go."""

    def add(
        self,
        plugin: str,
        panels: Sequence[Panel],
        templates: Path | Mapping[str, str] | None,
        pages: Sequence[Page] = (),
    ) -> None: ...

    def remove(self, plugin: str) -> None: ...


class Assets(Protocol):
    """Where static files go."""

    def add(self, prefix: str, folder: Path) -> None: ...


class PluginHost:
    """Where the parts of a plugin go: sources to the supervisor, panels to the catalogue."""

    def __init__(
        self,
        settings: Settings,
        plugins: PluginRegistry,
        bus: EmbeddedBus,
        supervisor: Supervisor,
        catalogue: PanelRegistry,
        assets: Assets,
        feeds: LogFeeds,
    ) -> None:
        self.settings, self.plugins = settings, plugins
        self.bus, self.supervisor, self.catalogue, self.assets = bus, supervisor, catalogue, assets
        self.feeds = feeds

    def add(self, name: str) -> None:
        """Put a plugin in. What of it does not work is noted, and hurts no other plugin.

        Raises `ConfigError` where its settings are wrong.
        """
        settings = self.plugins.settings(name, self.settings)
        context = PluginContext(name, self.bus, self.settings.storage.dir / "plugins" / name)
        parts: tuple[Callable[[], None], ...] = (
            partial(self._add_panels, name, settings),
            partial(self._add_tails, name, settings, context),
            partial(self._add_sources, name, settings, context),
        )
        for part in parts:
            try:
                part()
            except ConfigError:
                raise
            except (PluginError, ValueError) as error:
                self.plugins.note(name, str(error))
            except Exception as error:
                log.exception("a plugin does not work", plugin=name)
                self.plugins.note(name, describe_error(error, with_type=True))

    def _add_panels(self, name: str, settings: Any) -> None:
        if (folder := self.plugins.static(name)) is not None:
            self.assets.add(name, folder)
        panels, templates = self.plugins.panels(name, settings), self.plugins.templates(name)
        pages = self.plugins.pages(name, settings)
        if panels or pages or templates is not None:
            self.catalogue.add(name, panels, templates, pages)

    def _add_tails(self, name: str, settings: Any, context: Context) -> None:
        self.feeds.add(name, self.plugins.tails(name, settings, context))

    def _add_sources(self, name: str, settings: Any, context: Context) -> None:
        start = partial(self._start, name, context)
        for source in self.plugins.sources(name, settings, context):
            self.supervisor.add(source, name, context, start)
        self.supervisor.set_steps(
            name,
            partial(self.plugins.startup, name, settings, context),
            partial(self.plugins.shutdown, name, settings, context),
        )
        self.supervisor.start(name)

    def _start(self, plugin: str, context: Context, source: str) -> Start:
        return Start(
            plugin=plugin,
            source=source,
            settings=self.settings.plugin_settings.get(plugin, {}),
            plugins_dir=self.settings.plugins_dir,
            data_dir=context.data_dir,
            log_level=self.settings.log.level,
        )

    async def remove(self, name: str) -> None:
        """Take a plugin out: its sources end, its panels go."""
        await self.supervisor.remove(name)
        self.catalogue.remove(name)
        self.feeds.remove(name)
        self.plugins.unregister(name)
