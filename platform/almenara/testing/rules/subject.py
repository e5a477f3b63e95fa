"""The plugin under examination, and what rules report about it."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from almenara.config import decode_settings
from almenara.hookspecs import NotifierKind
from almenara.plugins import PluginError, PluginRegistry, find_plugin
from almenara.testing.source_run import MemoryContext, SourceRun

Verdict = Literal["passed", "skipped", "failed"]

RUN_TIME: Final = 1.5
"""Real seconds for which a source is run at most while it is examined."""


class Result(msgspec.Struct, frozen=True):
    """The verdict of one rule."""

    rule: str
    verdict: Verdict
    text: str = ""


class Skip(Exception):  # noqa: N818
    """The plugin has nothing that the rule applies to."""


class Subject:
    """A plugin with its part of the configuration. Raises `PluginError`."""

    stop_system: Callable[[], None] | None = None
    """Stops the system that the plugin observes; None where the settings start none."""
    last_known: Mapping[str, str] = {}
    """Kinds, or patterns of them, whose resources stay as they were while the system is
    unreachable, each with the kind of the resource that shows that it is."""

    def __init__(
        self, plugin: str, tree: Mapping[str, Any], receivers: Mapping[str, Any] | None = None
    ) -> None:
        self.tree = dict(tree)
        self.receivers = dict(receivers or {})
        """Settings of one receiver of each kind of notifier that is to be examined."""
        candidate = find_plugin(plugin)
        self.name = candidate.name
        self.plugins = PluginRegistry()
        self.plugins.load(candidate)
        if self.name not in self.plugins.modules:
            infos = self.plugins.infos()
            raise PluginError(infos[0].error if infos and infos[0].error else "it is not installed")

    def settings(self, tree: Mapping[str, Any] | None = None) -> Any:
        """Its settings. Raises `ConfigError`."""
        return self.plugins.decode_settings(self.name, self.tree if tree is None else tree)

    @property
    def has_settings(self) -> bool:
        """Whether it has settings."""
        return self.plugins.hooks.settings_type(self.name) is not None

    def notifier_kinds(self) -> list[NotifierKind]:
        """The kinds of notifiers that it offers; may be empty."""
        return self.plugins.hooks.notifiers(self.name, self.settings())

    def decode_receiver(self, kind: NotifierKind, tree: Mapping[str, Any]) -> Any:
        """The settings of a receiver. Raises `ConfigError`."""
        return decode_settings(kind.settings, dict(tree), place=f"receivers.{kind.name}")

    def settings_type(self) -> type[msgspec.Struct]:
        """The struct of its settings. Raises `Skip` where it has none."""
        kind = self.plugins.hooks.settings_type(self.name)
        if kind is None:
            raise Skip("it has no settings")
        return kind

    def create_sources(self, context: MemoryContext, settings: Any = None) -> list[Any]:
        """New instances of its sources; may be empty."""
        chosen = self.settings() if settings is None else settings
        return self.plugins.hooks.sources(self.name, chosen, context)

    def require_sources(self, context: MemoryContext) -> list[Any]:
        """New instances of its sources. Raises `Skip` where it has none."""
        sources = self.create_sources(context)
        if not sources:
            raise Skip("it has no source with these settings")
        return sources


@contextmanager
def memory_context() -> Iterator[MemoryContext]:
    """A context in memory with a temporary data folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield MemoryContext(Path(folder))


async def let_run(run: SourceRun, patience: float = RUN_TIME) -> None:
    """Let a source run until it has published an event, at least half and at most all of
    `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end and run.task is not None and not run.task.done():
        if run.events and time.monotonic() > end - patience / 2:
            return
        await asyncio.sleep(0.01)
