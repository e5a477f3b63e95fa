"""Plugins: found by entry point, asked for their settings, sources, commands and findings."""

import importlib.metadata
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import click
import msgspec
import pluggy

from almenara import hookspecs
from almenara.hookspecs import Finding, Source
from almenara.settings import Settings, SettingsError, read

GROUP: Final = "almenara"


class State(Protocol):
    """Where plugins keep what they remember: the bus."""

    async def save(self, plugin: str, key: str, value: bytes) -> None: ...

    async def load(self, plugin: str, key: str) -> bytes | None: ...


class PluginContext:
    """What the platform lends to one plugin; see `hookspecs.Context`."""

    def __init__(self, plugin: str, state: State, data_dir: Path) -> None:
        self.plugin, self.state, self.data_dir = plugin, state, data_dir

    async def load(self, key: str) -> bytes | None:
        return await self.state.load(self.plugin, key)

    async def save(self, key: str, value: bytes) -> None:
        await self.state.save(self.plugin, key, value)


class PluginError(RuntimeError):
    """A plugin cannot be used; the text names it and says why."""


class Plugins:
    """The plugins that are installed, by name."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self._hooks = pluggy.PluginManager(GROUP)
        self._hooks.add_hookspecs(hookspecs)

    def register(self, name: str, module: ModuleType) -> None:
        """Add a plugin. Raises `PluginError` where its hooks are not those of the contract."""
        try:
            self._hooks.register(module, name=name)
            self._hooks.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin {name} does not keep the contract: {error}") from error
        self.modules[name] = module

    def call(self, name: str, hook: str, **arguments: Any) -> Any:
        """The result of one plugin's implementation of a hook; None where it has none."""
        others = [module for other, module in self.modules.items() if other != name]
        caller = self._hooks.subset_hook_caller(hook, others)
        result = caller(**arguments)
        return (
            result if caller.spec and caller.spec.opts["firstresult"] else next(iter(result), None)
        )

    def settings_type(self, name: str) -> type[msgspec.Struct] | None:
        """The struct of a plugin's settings; None for a plugin without any."""
        kind: type[msgspec.Struct] | None = self.call(name, "almenara_settings")
        return kind

    def settings(self, name: str, settings: Settings) -> Any:
        """A plugin's settings. Raises `SettingsError`."""
        kind, tree = self.settings_type(name), settings.plugins.get(name)
        if kind is None:
            if tree:
                raise SettingsError(f"plugins.{name}: the plugin has no settings")
            return None
        return read(kind, tree or {}, place=f"plugins.{name}")

    def check(self, settings: Settings) -> None:
        """Raise `SettingsError` for a plugin that is configured and not there, or is wrong."""
        for name in settings.plugins:
            if name not in self.modules:
                known = ", ".join(self.modules) or "none"
                raise SettingsError(
                    f"plugins.{name} is not a plugin that is installed; installed are {known}"
                )
        for name in self.modules:
            self.settings(name, settings)

    def sources(self, settings: Settings, state: State) -> list[tuple[str, Source]]:
        """Every source with the name of its plugin."""
        found = []
        for name in self.modules:
            context = PluginContext(name, state, settings.storage.dir / "plugins" / name)
            sources: Sequence[Source] | None = self.call(
                name, "almenara_sources", settings=self.settings(name, settings), context=context
            )
            found += [(name, source) for source in sources or ()]
        return found

    def commands(self, settings: Callable[[], Settings]) -> list[click.Command]:
        """The commands that plugins add; `settings` reads the configuration when one runs."""
        found: list[click.Command] = []
        for name in self.modules:
            commands = self.call(
                name, "almenara_commands", read_settings=partial(self._read, name, settings)
            )
            found += commands or ()
        return found

    def _read(self, name: str, settings: Callable[[], Settings]) -> Any:
        return self.settings(name, settings())

    async def diagnose(self, settings: Settings) -> list[Finding]:
        """What every plugin finds."""
        found: list[Finding] = []
        for name in self.modules:
            try:
                result = self.call(
                    name, "almenara_diagnose", settings=self.settings(name, settings)
                )
                if inspect.isawaitable(result):
                    result = await result
                found += result or ()
            except Exception as error:
                found.append(
                    Finding(
                        check=f"plugin {name}",
                        verdict="failed",
                        found=f"its diagnosis failed with {type(error).__name__}: {error}",
                        remedy="Report this to the author of the plugin.",
                    )
                )
        return found


def installed() -> Plugins:
    """The plugins of the entry point group `almenara`. Raises `PluginError`."""
    plugins = Plugins()
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda it: it.name):
        try:
            module = point.load()
        except Exception as error:
            # An extra that is not installed is not an error: its plugin is simply not there.
            if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith(
                point.module.partition(".")[0]
            ):
                continue
            raise PluginError(f"plugin {point.name} cannot be imported: {error}") from error
        plugins.register(point.name, module)
    return plugins
