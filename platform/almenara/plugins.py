"""Plugins: found by entry point or in a folder, and asked for what they register."""

import asyncio
import difflib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, Protocol, TypeVar

import click
import msgspec
import pluggy
import structlog

from almenara import API_VERSION, __version__, hookspecs
from almenara.hookspecs import (
    ClusterRight,
    Context,
    Finding,
    KubernetesRule,
    Page,
    Panel,
    ResourceKey,
    Tail,
)
from almenara.settings import Settings, SettingsError, read

log = structlog.get_logger(__name__)

GROUP: Final = "almenara"
VERSION_NAME: Final = "ALMENARA_API_VERSION"
FOLDER_PACKAGE: Final = "almenara_plugins_dir"
"""What the modules of a plugins directory are imported under."""
RESERVED: Final = frozenset(("disabled",))

T = TypeVar("T")


class State(Protocol):
    """Where plugins keep what they remember: the bus."""

    async def save(self, plugin: str, key: str, value: bytes) -> None: ...

    async def load(self, plugin: str, key: str) -> bytes | None: ...

    async def told(self, source: str, kind: str) -> Sequence[ResourceKey]: ...


class PluginContext:
    """What the platform lends to one plugin; see `hookspecs.Context`.

    It may be used from any event loop; the state is kept on the loop it was made on.
    """

    def __init__(self, plugin: str, state: State, data_dir: Path) -> None:
        self.plugin, self.state, self.data_dir = plugin, state, data_dir
        self._home = asyncio.get_running_loop()

    async def load(self, key: str) -> bytes | None:
        found: bytes | None = await self._at_home(self.state.load, self.plugin, key)
        return found

    async def save(self, key: str, value: bytes) -> None:
        await self._at_home(self.state.save, self.plugin, key, value)

    async def told(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        found: Sequence[ResourceKey] = await self._at_home(self.state.told, source, kind)
        return found

    async def _at_home(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if asyncio.get_running_loop() is self._home:
            return await call(*arguments)
        future = asyncio.run_coroutine_threadsafe(call(*arguments), self._home)
        return await asyncio.wrap_future(future)


class PluginError(RuntimeError):
    """A plugin cannot be used; the text names it and says why."""


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


class Found(msgspec.Struct, frozen=True):
    """A plugin that has not been imported yet."""

    name: str
    origin: str
    version: str
    load: Callable[[], ModuleType | None]
    """The module; None where a library that it needs is not installed."""
    path: Path | None = None


Written = dict[Path, tuple[int, int]]


def written(path: Path) -> Written:
    """When each file of a plugin was written, and how long it is."""
    files = [path] if path.is_file() else [it for it in path.rglob("*") if it.is_file()]
    found: Written = {}
    for file in files:
        if "__pycache__" in file.parts:
            continue
        try:
            status = file.stat()
        except OSError:
            continue
        found[file] = (status.st_mtime_ns, status.st_size)
    return found


class Plugins:
    """The plugins there are, by name."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.written: dict[str, Written] = {}
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
                near = difflib.get_close_matches(attribute, self._offered, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {self._offered}"
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

    def load(self, found: Found) -> None:
        """Import and register a plugin; what goes wrong is noted and hurts no other."""
        if found.path is not None:
            self.written[found.name] = written(found.path)
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
                f"it cannot be imported: {type(error).__name__}: {error}{_line_of(error, found)}",
                origin=found.origin,
                version=found.version,
            )

    def leave_out(self, found: Found) -> None:
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

    def settings(self, name: str, settings: Settings) -> Any:
        """A plugin's settings. Raises `SettingsError`."""
        return self.settings_of(name, settings.of_plugins.get(name, {}))

    def settings_of(self, name: str, tree: Mapping[str, Any]) -> Any:
        """A plugin's settings, from what the configuration says of it. Raises `SettingsError`."""
        kind = self.settings_type(name)
        if kind is None:
            if tree:
                raise SettingsError(f"plugins.{name}: the plugin has no settings")
            return None
        return read(kind, dict(tree), place=f"plugins.{name}")

    def check(self, settings: Settings) -> None:
        """Raise `SettingsError` for a plugin that is configured and not there, or is wrong."""
        named = [
            *((f"plugins.{name}", name) for name in settings.of_plugins),
            *((f"plugins.disabled: {name}", name) for name in settings.disabled),
        ]
        for place, name in named:
            if name in self.absent:
                if name in settings.of_plugins:
                    raise SettingsError(
                        f"{place} needs libraries that are not installed: pip install"
                        f" 'almenara[{name}]', or a container image with the extra {name}"
                    )
            elif name not in self._known:
                near = difflib.get_close_matches(name, self._known, n=1)
                known = ", ".join(sorted(self._known)) or "none"
                hint = f"did you mean {near[0]}?" if near else f"installed are {known}"
                raise SettingsError(f"{place} is not a plugin that is installed; {hint}")
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

    def tails(self, name: str, settings: Any, context: Context) -> list[Tail]:
        """The tails of a plugin. Raises what its hook raises, and `PluginError`."""
        found = list(self.call(name, "almenara_tails", settings=settings, context=context) or ())
        for tail in found:
            if not isinstance(tail, Tail):
                raise PluginError(
                    f"a tail of plugin {name}, {type(tail).__name__}, must have a `name` and"
                    " `def lines(self, asked)`"
                )
            rights = getattr(tail, "rights", ())
            # Anything else would be asked of no cluster, and everybody would see the lines.
            right = all(isinstance(it, ClusterRight) for it in rights)
            if not right or (len(rights) > 1 and not hasattr(tail, "belongs")):
                raise PluginError(
                    f"the `rights` of the tail {tail.name} of plugin {name} must be"
                    " almenara.hookspecs.ClusterRight, and with several `belongs` must tell which"
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
                    name, "almenara_commands", read_settings=partial(self._read, name, settings)
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
                found=info.error or "",
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
                        found=f"its diagnosis failed with {type(error).__name__}: {error}",
                        remedy="Report this to the author of the plugin.",
                    )
                )
        return found + await self._review(settings)

    def kubernetes_rules(self, name: str, settings: Any) -> list[KubernetesRule]:
        """What a plugin needs of Kubernetes. Raises what its hook raises, and `PluginError`."""
        return self._all(name, "almenara_kubernetes_rules", KubernetesRule, settings)

    async def _review(self, settings: Settings) -> list[Finding]:
        """Whether what plugins need of Kubernetes is granted, asked by one that can."""
        try:
            rules = [
                rule
                for name in self.modules
                for rule in self.kubernetes_rules(name, self.settings(name, settings))
            ]
            if not rules:
                return []
            for name in self.modules:
                result = self.call(name, "almenara_kubernetes_review", rules=rules)
                if inspect.isawaitable(result) and (said := await result) is not None:
                    return list(said)
        except Exception as error:
            found, remedy = f"looking failed with {type(error).__name__}: {error}", ""
        else:
            found = f"{len(rules)} rules are needed; no plugin that can ask for them is active"
            remedy = "Compare with what `almenara kubernetes rbac` prints."
        return [Finding(check="Kubernetes rights", verdict="warning", found=found, remedy=remedy)]


def _check_source(plugin: str, source: Any) -> None:
    run = getattr(source, "run", None)
    if run is None or not inspect.iscoroutinefunction(run):
        raise PluginError(
            f"a source of plugin {plugin}, {type(source).__name__}, must have"
            " `async def run(self, publish)`"
        )


def _line_of(error: BaseException, found: Found) -> str:
    """Where in the plugin an error arose."""
    import traceback

    where = found.path.parent if found.path is not None else None
    steps = [
        step
        for step in traceback.extract_tb(error.__traceback__)
        if "importlib" not in step.filename and not step.filename.startswith("<frozen")
        and (where is None or Path(step.filename).is_relative_to(where))
        and step.filename != __file__
    ]  # fmt: skip
    return f" ({Path(steps[-1].filename).name}, line {steps[-1].lineno})" if steps else ""


def entry_points() -> Iterator[Found]:
    """The plugins that installed distributions bring, by the entry point group `almenara`."""
    points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda it: it.name):
        distribution = point.dist

        def load(point: importlib.metadata.EntryPoint = point) -> ModuleType | None:
            try:
                module: ModuleType = point.load()
            except ModuleNotFoundError as error:
                # An extra that is not installed is not an error: its plugin is simply not there.
                if str(error.name).startswith(point.module.partition(".")[0]):
                    raise
                if point.dist is None or point.dist.name != "almenara":
                    raise
                return None
            return module

        yield Found(
            point.name,
            distribution.name if distribution else point.module,
            distribution.version if distribution else "",
            load,
        )


def found_at(plugin: str) -> Found:
    """The installed plugin of this name, or that of this path. Raises `PluginError`."""
    path = Path(plugin)
    if path.suffix == ".py" or "/" in plugin or (path / "__init__.py").is_file():
        if not path.exists():
            raise PluginError(f"there is no plugin at {path}")
        path = path.resolve()
        return Found(path.stem, str(path), "", partial(_import_file, path), path)
    known = {found.name: found for found in entry_points()}
    if plugin not in known:
        near = difflib.get_close_matches(plugin, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"installed are {', '.join(known) or 'none'}"
        raise PluginError(f"{plugin} is not a plugin that is installed; {hint}")
    return known[plugin]


def in_folder(folder: Path) -> Iterator[Found]:
    """The plugins of a plugins directory: each `.py` file, and each folder with `__init__.py`.

    Names that begin with `.` or `_` are left alone, as a mounted ConfigMap has some.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise SettingsError(
            f"plugins_dir {folder} cannot be read: {error.strerror}. Check the path given to"
            " --plugins-dir."
        ) from None
    for path in paths:
        if path.name.startswith((".", "_")):
            continue
        if path.suffix == ".py" and path.is_file():
            yield Found(path.stem, str(path), "", partial(_import_file, path), path)
        elif (path / "__init__.py").is_file():
            yield Found(path.name, str(path), "", partial(_import_file, path), path)


def _import_file(path: Path) -> ModuleType:
    name = f"{FOLDER_PACKAGE}.{path.stem}"
    for known in [it for it in sys.modules if it == name or it.startswith(f"{name}.")]:
        del sys.modules[known]
    package = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        name,
        path / "__init__.py" if package else path,
        submodule_search_locations=[str(path)] if package else None,
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    importlib.invalidate_caches()
    try:
        # Two saves within a second would otherwise find the first one's compiled code.
        source = Path(spec.origin or path).read_bytes()
        exec(compile(source, spec.origin or str(path), "exec"), module.__dict__)  # noqa: S102  # nosec B102 # nosemgrep: unsafe-reading # a plugin is code that somebody installed
    except BaseException:
        del sys.modules[name]
        raise
    return module


def installed(plugins_dir: Path | None = None, disabled: Sequence[str] = ()) -> Plugins:
    """The plugins that are installed and those of a plugins directory.

    One that cannot be used is noted with the reason. Raises `SettingsError` for a plugins
    directory that cannot be read.
    """
    plugins = Plugins()
    found = [*entry_points(), *(in_folder(plugins_dir) if plugins_dir is not None else ())]
    for one in found:
        if one.name in disabled:
            plugins.leave_out(one)
        else:
            plugins.load(one)
    return plugins


def source_named(
    plugin: str,
    source: str,
    tree: Mapping[str, Any],
    plugins_dir: Path | None,
    context: Context,
) -> Any:
    """One source of one plugin, with nothing else imported. Raises `PluginError`."""
    candidates = [*entry_points(), *(in_folder(plugins_dir) if plugins_dir is not None else ())]
    plugins = Plugins()
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
