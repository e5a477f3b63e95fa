"""The host of plugins in a running Almenara: hands their parts out, and takes them back."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog

from almenara.config import ConfigError, Settings
from almenara.errors import AlmenaraError, describe_error
from almenara.hookspecs import Context, LogStream, Page, Panel, TextStream
from almenara.plugins.context import PluginContext, State
from almenara.plugins.discovery import PluginError
from almenara.plugins.registry import PluginRegistry
from almenara.processors.source import ProcessorBus, ProcessorSource
from almenara.supervisor import Supervisor
from almenara.supervisor.protocol import Start

log = structlog.get_logger(__name__)


class Panels(Protocol):
    """Where panels and pages go: `panels.registry.PanelRegistry`, in a layer above."""

    def add(
        self,
        plugin: str,
        panels: Sequence[Panel],
        templates: Path | Mapping[str, str] | None,
        pages: Sequence[Page] = (),
    ) -> None: ...

    def remove(self, plugin: str) -> None: ...


class LogFeeds(Protocol):
    """Where log streams go: `live.log_feed.LogFeeds`, in a layer above."""

    def add(self, plugin: str, streams: Sequence[LogStream], /) -> None: ...

    def remove(self, plugin: str) -> None: ...


class TextStreams(Protocol):
    """Where text streams go: `live.text_streams.TextStreams`, in a layer above."""

    def add(self, plugin: str, streams: Sequence[TextStream], /) -> None: ...

    def remove(self, plugin: str) -> None: ...


class Assets(Protocol):
    """Where static files go: `web.assets.Assets`, in a layer above."""

    def add(self, prefix: str, folder: Path) -> None: ...

    def __contains__(self, name: str) -> bool: ...


class HostBus(State, ProcessorBus, Protocol):
    """The bus, as far as plugins use it."""


class PluginHost:
    """Hands out the parts of plugins: sources to the supervisor, panels to their registry."""

    def __init__(
        self,
        settings: Settings,
        plugins: PluginRegistry,
        state: HostBus,
        supervisor: Supervisor,
        panels: Panels,
        assets: Assets,
        log_feeds: LogFeeds,
        text_streams: TextStreams,
    ) -> None:
        self.settings, self.plugins, self.state = settings, plugins, state
        self.supervisor, self.panels, self.assets = supervisor, panels, assets
        self.log_feeds, self.text_streams = log_feeds, text_streams

    def add(self, name: str) -> None:
        """Hand out the parts of a plugin. A part that fails is recorded and affects no other.

        Raises `ConfigError` where its settings are wrong.
        """
        settings = self.plugins.settings(name, self.settings)
        context = PluginContext(name, self.state, self.settings.storage.dir / "plugins" / name)
        for part in (
            partial(self._add_panels, name, settings),
            partial(self._add_log_streams, name, settings, context),
            partial(self._add_text_streams, name, settings, context),
            partial(self._add_sources, name, settings, context),
        ):
            try:
                part()
            except ConfigError:
                raise
            except (AlmenaraError, ValueError) as error:
                self.plugins.record_failure(name, str(error))
            except Exception as error:
                log.exception("a plugin failed", plugin=name)
                self.plugins.record_failure(name, describe_error(error, with_type=True))

    def _add_panels(self, name: str, settings: Any) -> None:
        hooks = self.plugins.hooks
        if (folder := hooks.static(name)) is not None:
            self.assets.add(name, folder)
        panels, templates = hooks.panels(name, settings), hooks.templates(name)
        pages = hooks.pages(name, settings)
        if panels or pages or templates is not None:
            self.panels.add(name, panels, templates, pages)
        for page in pages:
            if page.icon and f"{name}/{page.icon}" not in self.assets:
                raise PluginError(
                    f"page {page.name!r} of plugin {name}: its icon {page.icon!r} is not an image"
                    " in the folder of almenara_static"
                )

    def _add_log_streams(self, name: str, settings: Any, context: Context) -> None:
        self.log_feeds.add(name, self.plugins.hooks.log_streams(name, settings, context))

    def _add_text_streams(self, name: str, settings: Any, context: Context) -> None:
        self.text_streams.add(name, self.plugins.hooks.text_streams(name, settings, context))

    def _add_sources(self, name: str, settings: Any, context: Context) -> None:
        hooks = self.plugins.hooks
        start = partial(self._start_message, name, context)
        for source in hooks.sources(name, settings, context):
            self.supervisor.add(source, name, context, start)
        for processor in hooks.processors(name, settings, context):
            self.supervisor.add(ProcessorSource(processor, name, self.state), name, context)
        self.supervisor.set_steps(
            name,
            partial(hooks.startup, name, settings, context),
            partial(hooks.shutdown, name, settings, context),
        )
        self.supervisor.start(name)

    def _start_message(self, plugin: str, context: Context, source: str) -> Start:
        return Start(
            plugin=plugin,
            source=source,
            settings=self.settings.plugin_settings.get(plugin, {}),
            plugins_dir=self.settings.plugins_dir,
            data_dir=context.data_dir,
            log_level=self.settings.log.level,
        )

    async def remove(self, name: str) -> None:
        """Take the parts of a plugin back: its sources end, its panels disappear."""
        await self.supervisor.remove(name)
        self.panels.remove(name)
        self.log_feeds.remove(name)
        self.text_streams.remove(name)
        self.plugins.unregister(name)
