"""The registry of plugins: which of them are active, and why the others are not."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeVar

import click
import msgspec
import structlog

from almenara import API_VERSION, __version__
from almenara.config import EMBEDDED, ConfigError, Settings, decode_settings, suggest
from almenara.config.suggestions import end_sentence
from almenara.errors import describe_error
from almenara.hookspecs import (
    Context,
    IntakeKind,
    NotifierKind,
    Requirement,
    SharedLog,
    SharedLogKind,
)
from almenara.plugins.discovery import (
    GROUP,
    FileStamps,
    PluginCandidate,
    PluginError,
    error_location,
    installed_candidates,
    plugins_in_folder,
    stamp_files,
)
from almenara.plugins.hooks import PluginHooks

log = structlog.get_logger(__name__)

K = TypeVar("K", IntakeKind, NotifierKind)

VERSION_NAME: Final = "ALMENARA_API_VERSION"
RESERVED: Final = frozenset(("disabled", "alerts", "almenara"))
"""Names that the configuration and the core use themselves."""


class PluginInfo(msgspec.Struct, kw_only=True):
    """A plugin, and whether it is active."""

    name: str
    version: str
    origin: str
    """The distribution it came with, or the file."""
    api_version: int = 1
    hooks: list[str] = []
    state: Literal["active", "disabled", "failed"] = "active"
    error: str | None = None
    """Why it is not active, or which part of it does not work."""


class PluginRegistry:
    """All plugins that were discovered, by name."""

    def __init__(self) -> None:
        self.hooks = PluginHooks()
        self.stamps: dict[str, FileStamps] = {}
        """The stamps of the files of each plugin of the plugins directory, as imported."""
        self.from_folder: set[str] = set()
        """The plugins of the plugins directory."""
        self.absent: dict[str, str] = {}
        """Plugins whose libraries are not installed, with the command that installs them."""
        self._infos: dict[str, PluginInfo] = {}

    @property
    def modules(self) -> dict[str, ModuleType]:
        """The modules of the active plugins."""
        return self.hooks.modules

    def register(
        self, name: str, module: ModuleType, *, origin: str = "", version: str = ""
    ) -> None:
        """Add a plugin. Raises `PluginError` where it does not keep the contract."""
        if name in RESERVED:
            raise PluginError(f"no plugin can be named {name}: Almenara uses that name itself")
        required = getattr(module, VERSION_NAME, 1)
        if not isinstance(required, int) or required > API_VERSION:
            raise PluginError(
                f"plugin {name} needs version {required} of the plugin API, and Almenara"
                f" {__version__} has version {API_VERSION}; install a newer Almenara, or an older"
                f" {name}"
            )
        hooks = self._check_hooks(name, module)
        self.hooks.add(name, module)
        try:
            self._check_settings_type(name)
        except Exception:
            self.unregister(name)
            raise
        self._infos[name] = PluginInfo(
            name=name,
            version=version or str(getattr(module, "__version__", "")),
            origin=origin or module.__name__,
            api_version=required,
            hooks=hooks,
        )

    def _check_hooks(self, name: str, module: ModuleType) -> list[str]:
        """The hooks that a module implements. Raises `PluginError` for one that does not exist, and
        for a function that is named like a hook and not marked as one."""
        offered = self.hooks.offered
        implemented = []
        for attribute in dir(module):
            value = getattr(module, attribute, None)
            if hasattr(value, f"{GROUP}_impl"):
                if attribute not in offered:
                    raise PluginError(
                        f"plugin {name} implements {attribute}, no such hook;"
                        f" {suggest(attribute, offered)}"
                    )
                implemented.append(attribute)
            # `from almenara.hookspecs import *` brings the specifications, which are no mistake.
            elif attribute in offered and callable(value) and not hasattr(value, f"{GROUP}_spec"):
                raise PluginError(
                    f"plugin {name} has a function {attribute} that is not marked as a hook; put"
                    " @almenara.hookimpl in front of it"
                )
        return [hook for hook in offered if hook in implemented]

    def _check_settings_type(self, name: str) -> None:
        try:
            kind = self.hooks.settings_type(name)
        except Exception as error:
            raise PluginError(
                f"almenara_settings of plugin {name} raised {describe_error(error, with_type=True)}"
            ) from error
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise PluginError(
                f"almenara_settings of plugin {name} must return a subclass of msgspec.Struct;"
                f" it returned {kind!r}"
            )

    def unregister(self, name: str) -> None:
        """Remove a plugin."""
        self._infos.pop(name, None)
        self.from_folder.discard(name)
        self.hooks.remove(name)

    def record_failure(self, name: str, error: str, *, origin: str = "", version: str = "") -> None:
        """Record what of a plugin does not work; its state is failed from then on."""
        info = self._infos.get(name)
        if info is None:
            info = self._infos[name] = PluginInfo(name=name, version=version, origin=origin)
        info.state, info.error = "failed", error
        log.error("a plugin failed", plugin=name, error=error)

    def infos(self) -> list[PluginInfo]:
        """Every plugin that was discovered, by name; those that failed or are disabled included."""
        return [self._infos[name] for name in sorted(self._infos)]

    def has_failures(self) -> bool:
        """Whether any plugin has failed."""
        return any(info.state == "failed" for info in self._infos.values())

    def load(self, candidate: PluginCandidate) -> None:
        """Import and register a plugin; a failure is recorded and affects no other plugin."""
        name, origin, version = candidate.name, candidate.origin, candidate.version
        if candidate.path is not None:
            self.stamps[name] = stamp_files(candidate.path)
        if name in self._infos:
            self.record_failure(
                f"{name} ({origin})",
                f"its name is taken by the plugin of {self._infos[name].origin};"
                " give the file another name",
                origin=origin,
            )
            return
        try:
            module = candidate.load()
            if module is None:
                self.absent[name] = f"pip install '{origin}[{name}]'"
            else:
                self.register(name, module, origin=origin, version=version)
                if candidate.path is not None:
                    self.from_folder.add(name)
        except PluginError as error:
            self.record_failure(name, str(error), origin=origin, version=version)
        except (Exception, SystemExit) as error:
            self.record_failure(
                name,
                f"it cannot be imported: {describe_error(error, with_type=True)}"
                f"{error_location(error, candidate)}",
                origin=origin,
                version=version,
            )

    def disable(self, candidate: PluginCandidate) -> None:
        """Record a plugin as disabled; it is not even imported."""
        self._infos[candidate.name] = PluginInfo(
            name=candidate.name,
            version=candidate.version,
            origin=candidate.origin,
            state="disabled",
            error="plugins.disabled names it",
        )

    def settings_types(self) -> dict[str, type[msgspec.Struct] | None]:
        """The settings struct of every discovered plugin by its name; None where it has none, or
        where the plugin is not active."""
        return {
            name: self.hooks.settings_type(name) if name in self.modules else None
            for name in sorted(self._infos)
        }

    def settings(self, name: str, settings: Settings) -> Any:
        """A plugin's settings. Raises `ConfigError`."""
        return self.decode_settings(name, settings.plugin_settings.get(name, {}))

    def decode_settings(self, name: str, tree: Mapping[str, Any]) -> Any:
        """A plugin's settings from its part of the configuration. Raises `ConfigError`."""
        kind = self.hooks.settings_type(name)
        if kind is None:
            if tree:
                raise ConfigError(f"plugins.{name}: the plugin has no settings")
            return None
        return decode_settings(kind, dict(tree), place=f"plugins.{name}")

    def check(self, settings: Settings) -> None:
        """Raise `ConfigError` for a configured plugin that does not exist or whose settings are
        wrong."""
        mentioned = [
            *((f"plugins.{name}", name) for name in settings.plugin_settings),
            *((f"plugins.disabled: {name}", name) for name in settings.disabled_plugins),
        ]
        for place, name in mentioned:
            if name in self.absent:
                if name in settings.plugin_settings:
                    raise ConfigError(
                        f"{place} needs libraries that are not installed: {self.absent[name]},"
                        f" or a container image with the extra {name}"
                    )
            elif name not in self._infos:
                hint = suggest(name, sorted(self._infos))
                raise ConfigError(f"{place} is not a plugin that is installed; {hint}")
        for name in self.modules:
            self.settings(name, settings)

    def requirements(self, settings: Settings) -> list[Requirement]:
        """What all plugins must be permitted to do in other systems, as they are configured.

        Raises `ConfigError`, `PluginError`, and what a hook raises.
        """
        return [
            requirement
            for name in self.modules
            for requirement in self.hooks.requirements(name, self.settings(name, settings))
        ]

    def shared_log_kinds(self, settings: Settings) -> dict[str, SharedLogKind]:
        """The kinds of shared logs of all plugins by their names.

        A plugin that fails is recorded. Raises `ConfigError` where its settings are wrong.
        """
        kinds: dict[str, SharedLogKind] = {}
        for name in list(self.modules):
            plugin_settings = self.settings(name, settings)
            try:
                offered = self.hooks.shared_logs(name, plugin_settings)
            except PluginError as error:
                self.record_failure(name, str(error))
                continue
            except Exception as error:
                reason = describe_error(error, with_type=True)
                self.record_failure(name, f"almenara_shared_logs raised {reason}")
                continue
            for kind in offered:
                kinds.setdefault(kind.name, kind)
        return kinds

    def shared_log(self, settings: Settings) -> SharedLog | None:
        """The log that `bus.kind` selects; None where the bus is embedded. Raises `ConfigError`."""
        bus = settings.bus
        if bus.kind == EMBEDDED:
            return None
        kinds = self.shared_log_kinds(settings)
        kind = kinds.get(bus.kind)
        if kind is None:
            hint = end_sentence(suggest(bus.kind, sorted([EMBEDDED, *kinds])))
            raise ConfigError(
                f"bus.kind: {bus.kind!r} is not a kind of bus; {hint} Kinds come with plugins:"
                " `almenara plugins list` shows which are not installed."
            )
        return kind.create(decode_settings(kind.settings, bus.settings, place="bus.settings"))

    def notifier_kinds(self, settings: Settings) -> dict[str, NotifierKind]:
        """The kinds of notifiers of all plugins by their names.

        A plugin that fails is recorded. Raises `ConfigError` where its settings are wrong.
        """
        return self._collect_kinds(settings, "notifier", self.hooks.notifiers)

    def intake_kinds(self, settings: Settings) -> dict[str, IntakeKind]:
        """The kinds of intakes of all plugins by their names; as for notifiers."""
        return self._collect_kinds(settings, "intake", self.hooks.intakes)

    def _collect_kinds(
        self, settings: Settings, what: str, offers: Callable[[str, Any], Sequence[K]]
    ) -> dict[str, K]:
        kinds: dict[str, K] = {}
        for name in list(self.modules):
            plugin_settings = self.settings(name, settings)
            try:
                offered = offers(name, plugin_settings)
            except PluginError as error:
                self.record_failure(name, str(error))
                continue
            except Exception as error:
                reason = describe_error(error, with_type=True)
                self.record_failure(name, f"almenara_{what}s raised {reason}")
                continue
            for kind in offered:
                if kind.name in kinds:
                    self.record_failure(
                        name, f"its {what} {kind.name} has the name of another one; rename it"
                    )
                else:
                    kinds[kind.name] = kind
        return kinds

    def commands(self, read_settings: Callable[[], Settings]) -> list[click.Command]:
        """The commands that plugins add; `read_settings` reads the configuration when one runs."""
        commands: list[click.Command] = []
        for name in list(self.modules):
            try:
                commands += self.hooks.commands(
                    name,
                    partial(self._read_settings, name, read_settings),
                    lambda: self.requirements(read_settings()),
                    lambda: self.shared_log(read_settings()),
                )
            except Exception as error:
                reason = describe_error(error, with_type=True)
                self.record_failure(name, f"almenara_commands raised {reason}")
        return commands

    def _read_settings(self, name: str, read_settings: Callable[[], Settings]) -> Any:
        return self.settings(name, read_settings())


def _candidates(plugins_dir: Path | None) -> list[PluginCandidate]:
    in_folder = plugins_in_folder(plugins_dir) if plugins_dir is not None else ()
    return [*installed_candidates(), *in_folder]


def load_plugins(plugins_dir: Path | None = None, disabled: Sequence[str] = ()) -> PluginRegistry:
    """Load the installed plugins and those of a plugins directory.

    One that cannot be used is recorded with the reason. Raises `ConfigError` for a plugins
    directory that cannot be read.
    """
    plugins = PluginRegistry()
    for candidate in _candidates(plugins_dir):
        if candidate.name in disabled:
            plugins.disable(candidate)
        else:
            plugins.load(candidate)
    return plugins


def load_source(
    plugin: str,
    source: str,
    tree: Mapping[str, Any],
    plugins_dir: Path | None,
    context: Context,
) -> Any:
    """Load one source of one plugin, and import nothing else. Raises `PluginError`.

    `tree` is the plugin's part of the configuration.
    """
    plugins = PluginRegistry()
    for candidate in _candidates(plugins_dir):
        if candidate.name == plugin:
            plugins.load(candidate)
            break
    if plugin not in plugins.modules:
        reason = next((info.error for info in plugins.infos()), "it is not installed")
        raise PluginError(f"plugin {plugin} cannot be used in a process of its own: {reason}")
    for one in plugins.hooks.sources(plugin, plugins.decode_settings(plugin, tree), context):
        if (getattr(one, "name", "") or plugin) == source:
            return one
    raise PluginError(f"plugin {plugin} has no source named {source} in a process of its own")
