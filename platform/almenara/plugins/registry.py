"""PluginRegistry: found by entry point or in a folder, and asked for what they register."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeVar

import click
import msgspec
import pluggy
import structlog

from almenara import API_VERSION, __version__, hookspecs
from almenara.config import ConfigError, Settings, decode_settings, suggest
from almenara.hookspecs import (
    ClusterRight,
    Context,
    Finding,
    LogStream,
    Page,
    Panel,
    Requirement,
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

log = structlog.get_logger(__name__)

VERSION_NAME: Final = "ALMENARA_API_VERSION"
RESERVED: Final = frozenset(("disabled",))

T = TypeVar("T")


class PluginInfo(msgspec.Struct, kw_only=True):
    """What is known of a plugin."""

    name: str
    version: str
    origin: str
    """The distribution it came with, or the file."""
    api_version: int = 1
    hooks: list[str] = []
    state: Literal["active", "disabled", "failed"] = "active"
    error: str | None = None
    """Why it is not active, or what of it does not work."""


class PluginRegistry:
    """The plugins there are, by name."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.written: dict[str, FileStamps] = {}
        """When the files of each plugin of the plugins directory were written, as imported."""
        self.from_folder: set[str] = set()
        """The plugins that came from the plugins directory."""
        self.absent: set[str] = set()
        """Those that come with Almenara and whose libraries are not installed."""
        self._known: dict[str, PluginInfo] = {}
        self._hooks = pluggy.PluginManager(GROUP)
        self._hooks.add_hookspecs(hookspecs)
        self._offered = [name for name in vars(hookspecs) if name.startswith("almenara_")]

    def register(
        self, name: str, module: ModuleType, *, origin: str = "", version: str = ""
    ) -> None:
        """Add a plugin. Raises `PluginError` where it does not keep the contract."""
        if name in RESERVED:
            raise PluginError(f"no plugin can be called {name}: the configuration uses that name")
        needed = getattr(module, VERSION_NAME, 1)
        if not isinstance(needed, int) or needed > API_VERSION:
            raise PluginError(
                f"plugin {name} needs version {needed} of the plugin API, and Almenara"
                f" {__version__} has version {API_VERSION}; install a newer Almenara, or an older"
                f" {name}"
            )
        self._refuse_unknown_hooks(name, module)
        try:
            self._hooks.register(module, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._hooks.has_plugin(name):
                self._hooks.unregister(name=name)
            raise PluginError(
                f"plugin {name} does not keep the contract: {' '.join(str(error).split())}"
            ) from error
        self.modules[name] = module
        try:
            self._check_settings_type(name)
        except Exception:
            self.unregister(name)
            raise
        self._known[name] = PluginInfo(
            name=name,
            version=version or str(getattr(module, "__version__", "")),
            origin=origin or module.__name__,
            api_version=needed,
            hooks=[
                hook
                for hook in self._offered
                if hasattr(getattr(module, hook, None), f"{GROUP}_impl")
            ],
        )

    def _refuse_unknown_hooks(self, name: str, module: ModuleType) -> None:
        for attribute in dir(module):
            if hasattr(getattr(module, attribute, None), f"{GROUP}_impl"):
                if attribute in self._offered:
                    continue
                hint = suggest(attribute, self._offered)
                raise PluginError(f"plugin {name} implements {attribute}, no such hook; {hint}")

    def _check_settings_type(self, name: str) -> None:
        try:
            kind = self.settings_type(name)
        except Exception as error:
            raise PluginError(
                f"almenara_settings of plugin {name} raised {type(error).__name__}: {error}"
            ) from error
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise PluginError(
                f"almenara_settings of plugin {name} must return a subclass of msgspec.Struct;"
                f" it returned {kind!r}"
            )

    def unregister(self, name: str) -> None:
        """Forget a plugin."""
        self.modules.pop(name, None)
        self._known.pop(name, None)
        self.from_folder.discard(name)
        if self._hooks.has_plugin(name):
            self._hooks.unregister(name=name)

    def note(self, name: str, error: str, *, origin: str = "", version: str = "") -> None:
        """Note what of a plugin does not work; it counts as failed from then on."""
        info = self._known.get(name)
        if info is None:
            info = self._known[name] = PluginInfo(name=name, version=version, origin=origin)
        info.state, info.error = "failed", error
        log.error("a plugin does not work", plugin=name, error=error)

    def described(self) -> list[PluginInfo]:
        """Every plugin that was found, those that failed or are disabled among them, by name."""
        return [self._known[name] for name in sorted(self._known)]

    def load(self, found: PluginCandidate) -> None:
        """Import and register a plugin; what goes wrong is noted and hurts no other."""
        if found.path is not None:
            self.written[found.name] = stamp_files(found.path)
        if found.name in self._known:
            self.note(
                f"{found.name} ({found.origin})",
                f"its name is taken by the plugin of {self._known[found.name].origin};"
                " give the file another name",
                origin=found.origin,
            )
            return
        try:
            module = found.load()
            if module is None:
                self.absent.add(found.name)
            else:
                self.register(found.name, module, origin=found.origin, version=found.version)
                if found.path is not None:
                    self.from_folder.add(found.name)
        except PluginError as error:
            self.note(found.name, str(error), origin=found.origin, version=found.version)
        except (Exception, SystemExit) as error:
            self.note(
                found.name,
                f"it cannot be imported: {type(error).__name__}: {error}"
                f"{error_location(error, found)}",
                origin=found.origin,
                version=found.version,
            )

    def leave_out(self, found: PluginCandidate) -> None:
        """Note a plugin that is disabled; it is not even imported."""
        self._known[found.name] = PluginInfo(
            name=found.name, version=found.version, origin=found.origin, state="disabled",
            error="plugins.disabled names it",
        )  # fmt: skip

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

    def settings_types(self) -> dict[str, type[msgspec.Struct] | None]:
        """The settings struct of every known plugin by its name; None where it has none, or where
        the plugin is not loaded."""
        return {
            info.name: self.settings_type(info.name) if info.name in self.modules else None
            for info in self.described()
        }

    def settings(self, name: str, settings: Settings) -> Any:
        """A plugin's settings. Raises `ConfigError`."""
        return self.settings_of(name, settings.plugin_settings.get(name, {}))

    def settings_of(self, name: str, tree: Mapping[str, Any]) -> Any:
        """A plugin's settings, from what the configuration says of it. Raises `ConfigError`."""
        kind = self.settings_type(name)
        if kind is None:
            if tree:
                raise ConfigError(f"plugins.{name}: the plugin has no settings")
            return None
        return decode_settings(kind, dict(tree), place=f"plugins.{name}")

    def check(self, settings: Settings) -> None:
        """Raise `ConfigError` for a plugin that is configured and not there, or is wrong."""
        named = [
            *((f"plugins.{name}", name) for name in settings.plugin_settings),
            *((f"plugins.disabled: {name}", name) for name in settings.disabled_plugins),
        ]
        for place, name in named:
            if name in self.absent:
                if name in settings.plugin_settings:
                    raise ConfigError(
                        f"{place} needs libraries that are not installed: pip install"
                        f" 'almenara[{name}]', or a container image with the extra {name}"
                    )
            elif name not in self._known:
                hint = suggest(name, sorted(self._known))
                raise ConfigError(f"{place} is not a plugin that is installed; {hint}")
        for name in self.modules:
            self.settings(name, settings)

    def sources(self, name: str, settings: Any, context: Context) -> list[Any]:
        """The sources of a plugin. Raises what its hook raises, and `PluginError`."""
        sources = self.call(name, "almenara_sources", settings=settings, context=context)
        found = list(sources or ())
        for source in found:
            _check_source(name, source)
        return found

    def _all(self, name: str, hook: str, kind: type[T], settings: Any) -> list[T]:
        found = list(self.call(name, hook, settings=settings) or ())
        for it in found:
            if not isinstance(it, kind):
                raise PluginError(
                    f"{hook} of plugin {name} must return almenara.hookspecs.{kind.__name__};"
                    f" one is {type(it).__name__}"
                )
        return found

    def panels(self, name: str, settings: Any) -> list[Panel]:
        """The panels of a plugin. Raises what its hook raises, and `PluginError`."""
        return self._all(name, "almenara_panels", Panel, settings)

    def pages(self, name: str, settings: Any) -> list[Page]:
        """The pages of a plugin. Raises what its hook raises, and `PluginError`."""
        return self._all(name, "almenara_pages", Page, settings)

    def tails(self, name: str, settings: Any, context: Context) -> list[LogStream]:
        """The tails of a plugin. Raises what its hook raises, and `PluginError`."""
        found = list(
            self.call(name, "almenara_log_streams", settings=settings, context=context) or ()
        )
        for tail in found:
            if not isinstance(tail, LogStream):
                raise PluginError(
                    f"a tail of plugin {name}, {type(tail).__name__}, must have a `name` and"
                    " `def lines(self, asked)`"
                )
            rights = getattr(tail, "rights", ())
            # Anything else would be asked of no cluster, and everybody would see the lines.
            right = all(isinstance(it, ClusterRight) for it in rights)
            if not right or (len(rights) > 1 and not hasattr(tail, "access_for")):
                raise PluginError(
                    f"the `rights` of the tail {tail.name} of plugin {name} must be"
                    " almenara.hookspecs.ClusterRight; with several, `access_for` must choose one"
                )
        return found

    def templates(self, name: str) -> Path | Mapping[str, str] | None:
        """The templates of a plugin."""
        found: Path | Mapping[str, str] | None = self.call(name, "almenara_templates")
        return found

    def static(self, name: str) -> Path | None:
        """The folder of static files of a plugin."""
        found: Path | None = self.call(name, "almenara_static")
        return found

    async def startup(self, name: str, settings: Any, context: Context) -> None:
        """Call the start-up of a plugin."""
        result = self.call(name, "almenara_startup", settings=settings, context=context)
        if inspect.isawaitable(result):
            await result

    async def shutdown(self, name: str, settings: Any, context: Context) -> None:
        """Call the shutdown of a plugin."""
        result = self.call(name, "almenara_shutdown", settings=settings, context=context)
        if inspect.isawaitable(result):
            await result

    def commands(self, settings: Callable[[], Settings]) -> list[click.Command]:
        """The commands that plugins add; `settings` reads the configuration when one runs."""
        found: list[click.Command] = []
        for name in list(self.modules):
            try:
                found += self.call(
                    name,
                    "almenara_commands",
                    read_settings=partial(self._read, name, settings),
                    read_requirements=lambda: self.requirements(settings()),
                ) or ()  # fmt: skip
            except Exception as error:
                self.note(name, f"almenara_commands raised {type(error).__name__}: {error}")
        return found

    def _read(self, name: str, settings: Callable[[], Settings]) -> Any:
        return self.settings(name, settings())

    async def diagnose(self, settings: Settings) -> list[Finding]:
        """What every plugin finds."""
        found = [
            Finding(
                check=f"plugin {info.name}",
                verdict="failed",
                message=info.error or "",
                remedy="Fix or update it, or name it in plugins.disabled.",
            )
            for info in self.described()
            if info.state == "failed"
        ]
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
                        message=f"its diagnosis failed with {type(error).__name__}: {error}",
                        remedy="Report this to the author of the plugin.",
                    )
                )
        return found + await self._review(settings)

    def requirements(self, settings: Settings) -> list[Requirement]:
        """What all plugins must be permitted to do in other systems, as they are configured.

        Raises `ConfigError`, `PluginError`, and what a hook raises.
        """
        return [
            requirement
            for name in self.modules
            for requirement in self._all(
                name, "almenara_requirements", Requirement, self.settings(name, settings)
            )
        ]

    async def _review(self, settings: Settings) -> list[Finding]:
        """Whether the requirements of all plugins are met, system by system."""
        try:
            requirements = self.requirements(settings)
        except Exception as error:
            message = f"reading them failed with {type(error).__name__}: {error}"
            return [Finding(check="requirements", verdict="warning", message=message)]
        findings: list[Finding] = []
        for system in dict.fromkeys(requirement.system for requirement in requirements):
            findings += await self._review_system(
                system, [each for each in requirements if each.system == system]
            )
        return findings

    async def _review_system(
        self, system: str, requirements: Sequence[Requirement]
    ) -> list[Finding]:
        check = f"{system} permissions"
        try:
            for name in self.modules:
                result = self.call(name, "almenara_review", requirements=requirements)
                if inspect.isawaitable(result) and (findings := await result) is not None:
                    return list(findings)
        except Exception as error:
            message = f"the review failed with {type(error).__name__}: {error}"
            return [Finding(check=check, verdict="warning", message=message)]
        return [
            Finding(
                check=check,
                verdict="warning",
                message=f"{len(requirements)} are needed; no active plugin can review them",
                remedy=f"Enable the plugin for {system}.",
            )
        ]


def _check_source(plugin: str, source: Any) -> None:
    run = getattr(source, "run", None)
    if run is None or not inspect.iscoroutinefunction(run):
        raise PluginError(
            f"a source of plugin {plugin}, {type(source).__name__}, must have"
            " `async def run(self, publish)`"
        )


def load_plugins(plugins_dir: Path | None = None, disabled: Sequence[str] = ()) -> PluginRegistry:
    """The plugins that are installed and those of a plugins directory.

    One that cannot be used is noted with the reason. Raises `ConfigError` for a plugins
    directory that cannot be read.
    """
    plugins = PluginRegistry()
    found = [
        *installed_candidates(),
        *(plugins_in_folder(plugins_dir) if plugins_dir is not None else ()),
    ]
    for one in found:
        if one.name in disabled:
            plugins.leave_out(one)
        else:
            plugins.load(one)
    return plugins


def load_source(
    plugin: str,
    source: str,
    tree: Mapping[str, Any],
    plugins_dir: Path | None,
    context: Context,
) -> Any:
    """One source of one plugin, with nothing else imported. Raises `PluginError`."""
    candidates = [
        *installed_candidates(),
        *(plugins_in_folder(plugins_dir) if plugins_dir is not None else ()),
    ]
    plugins = PluginRegistry()
    for found in candidates:
        if found.name == plugin:
            plugins.load(found)
            break
    if plugin not in plugins.modules:
        why = next((info.error for info in plugins.described()), "it is not installed")
        raise PluginError(f"plugin {plugin} cannot be used in a process of its own: {why}")
    for one in plugins.sources(plugin, plugins.settings_of(plugin, tree), context):
        if (getattr(one, "name", "") or plugin) == source:
            return one
    raise PluginError(f"plugin {plugin} has no source named {source} in a process of its own")
