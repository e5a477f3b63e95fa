"""Calls to the hooks of one plugin at a time, with checks of what they return."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import click
import msgspec
import pluggy

from almenara import hookspecs
from almenara.config import BUILTIN_INTAKES, INTAKE_NAME
from almenara.errors import describe_error
from almenara.hookspecs import (
    AlertRule,
    ClusterRight,
    Context,
    Finding,
    IntakeKind,
    LogStream,
    NotifierKind,
    Page,
    Panel,
    Processor,
    Requirement,
    ResourceLink,
    SharedLog,
    SharedLogKind,
    Subscription,
    TextStream,
)
from almenara.plugins.discovery import GROUP, PluginError, module_location

T = TypeVar("T")


class PluginHooks:
    """The hooks of all registered plugins, called by the name of the plugin.

    Each method raises what the hook raises, and `PluginError` where its result does not keep the
    contract.
    """

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        self.offered = [name for name in vars(hookspecs) if name.startswith("almenara_")]
        """The names of all hooks."""
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)

    def add(self, name: str, module: ModuleType) -> None:
        """Add the hooks of a plugin. Raises `PluginError` where they do not fit the contract."""
        try:
            self._manager.register(module, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise PluginError(
                f"plugin {name} does not keep the contract: {describe_error(error)}"
            ) from error
        self.modules[name] = module

    def remove(self, name: str) -> None:
        """Remove the hooks of a plugin, if it has any."""
        self.modules.pop(name, None)
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def call(self, name: str, hook: str, **arguments: Any) -> Any:
        """The result of one plugin's implementation of a hook; None where it has none."""
        others = [module for other, module in self.modules.items() if other != name]
        caller = self._manager.subset_hook_caller(hook, others)
        result = caller(**arguments)
        if caller.spec and caller.spec.opts["firstresult"]:
            return result
        return next(iter(result), None)

    async def call_async(self, name: str, hook: str, **arguments: Any) -> Any:
        """As `call`, for hooks that may be coroutines."""
        result = self.call(name, hook, **arguments)
        return await result if inspect.isawaitable(result) else result

    def _list(self, name: str, hook: str, kind: type[T], settings: Any) -> list[T]:
        try:
            entries = list(self.call(name, hook, settings=settings) or ())
        except TypeError as error:
            # A declaration with a field that is unknown or missing: its text names the object.
            place = module_location(error, self.modules[name])
            raise PluginError(f"{hook} of plugin {name}: {error}{place}") from error
        for entry in entries:
            if not isinstance(entry, kind):
                raise PluginError(
                    f"{hook} of plugin {name} must return almenara.hookspecs.{kind.__name__};"
                    f" it returned {type(entry).__name__}"
                )
        return entries

    def settings_type(self, name: str) -> type[msgspec.Struct] | None:
        """The struct of a plugin's settings; None for a plugin without any."""
        kind: type[msgspec.Struct] | None = self.call(name, "almenara_settings")
        return kind

    def sources(self, name: str, settings: Any, context: Context) -> list[Any]:
        """The sources of a plugin."""
        result = self.call(name, "almenara_sources", settings=settings, context=context)
        sources = _to_list(name, "almenara_sources", result)
        for source in sources:
            if not inspect.iscoroutinefunction(getattr(source, "run", None)):
                raise PluginError(
                    f"source {type(source).__name__} of plugin {name} must have"
                    " `async def run(self, publish)`"
                )
        return sources

    def processors(self, name: str, settings: Any, context: Context) -> list[Processor]:
        """The processors of a plugin."""
        result = self.call(name, "almenara_processors", settings=settings, context=context)
        processors = _to_list(name, "almenara_processors", result)
        for processor in processors:
            kind = type(processor).__name__
            if not callable(getattr(processor, "on_signal", None)):
                raise PluginError(
                    f"processor {kind} of plugin {name} must have `def on_signal(self, signal,"
                    " step)`"
                )
            if not isinstance(getattr(processor, "subscription", None), Subscription):
                raise PluginError(
                    f"processor {kind} of plugin {name} must have a `subscription`, an"
                    " almenara.hookspecs.Subscription"
                )
        return processors

    def alert_rules(self, name: str, settings: Any) -> list[AlertRule]:
        """The alert rules of a plugin."""
        return self._list(name, "almenara_alert_rules", AlertRule, settings)

    def resource_links(self, name: str, settings: Any) -> list[ResourceLink]:
        """On which others the resources of a plugin depend."""
        return self._list(name, "almenara_resource_links", ResourceLink, settings)

    def panels(self, name: str, settings: Any) -> list[Panel]:
        """The panels of a plugin."""
        return self._list(name, "almenara_panels", Panel, settings)

    def pages(self, name: str, settings: Any) -> list[Page]:
        """The pages of a plugin."""
        return self._list(name, "almenara_pages", Page, settings)

    def requirements(self, name: str, settings: Any) -> list[Requirement]:
        """What a plugin must be permitted to do in other systems."""
        return self._list(name, "almenara_requirements", Requirement, settings)

    def shared_logs(self, name: str, settings: Any) -> list[SharedLogKind]:
        """The kinds of shared logs of a plugin."""
        kinds = self._list(name, "almenara_shared_logs", SharedLogKind, settings)
        for kind in kinds:
            _check_kind(kind, f"shared log {kind.name} of plugin {name}")
        return kinds

    def notifiers(self, name: str, settings: Any) -> list[NotifierKind]:
        """The kinds of notifiers of a plugin."""
        kinds = self._list(name, "almenara_notifiers", NotifierKind, settings)
        for kind in kinds:
            _check_kind(kind, f"notifier {kind.name} of plugin {name}")
        return kinds

    def intakes(self, name: str, settings: Any) -> list[IntakeKind]:
        """The kinds of intakes of a plugin."""
        kinds = self._list(name, "almenara_intakes", IntakeKind, settings)
        for kind in kinds:
            if INTAKE_NAME.fullmatch(kind.name) is None or kind.name in BUILTIN_INTAKES:
                raise PluginError(
                    f"intake {kind.name!r} of plugin {name} must be named in lower-case letters,"
                    f" digits, _ and -, and not be one of {', '.join(BUILTIN_INTAKES)}"
                )
        return kinds

    def log_streams(self, name: str, settings: Any, context: Context) -> list[LogStream]:
        """The log streams of a plugin."""
        streams = list(
            self.call(name, "almenara_log_streams", settings=settings, context=context) or ()
        )
        for stream in streams:
            if not isinstance(stream, LogStream):
                raise PluginError(
                    f"log stream {type(stream).__name__} of plugin {name} must have a `name` and"
                    " `def lines(self, filters)`"
                )
            rights = getattr(stream, "rights", ())
            # Any other type would never be checked, and every viewer would see the lines.
            are_rights = all(isinstance(right, ClusterRight) for right in rights)
            if not are_rights or (len(rights) > 1 and not hasattr(stream, "access_for")):
                raise PluginError(
                    f"`rights` of log stream {stream.name} of plugin {name} must hold"
                    " almenara.hookspecs.ClusterRight; with several, `access_for` must choose one"
                )
        return streams

    def text_streams(self, name: str, settings: Any, context: Context) -> list[TextStream]:
        """The text streams of a plugin."""
        streams = list(
            self.call(name, "almenara_text_streams", settings=settings, context=context) or ()
        )
        for stream in streams:
            if not isinstance(stream, TextStream):
                raise PluginError(
                    f"text stream {type(stream).__name__} of plugin {name} must have `name`,"
                    " `types`, `accept`, `read` and `listen`"
                )
        return streams

    def templates(self, name: str) -> Path | Mapping[str, str] | None:
        """The templates of a plugin."""
        templates: Path | Mapping[str, str] | None = self.call(name, "almenara_templates")
        return templates

    def static(self, name: str) -> Path | None:
        """The folder of static files of a plugin."""
        folder: Path | None = self.call(name, "almenara_static")
        return folder

    async def startup(self, name: str, settings: Any, context: Context) -> None:
        """Start a plugin up."""
        await self.call_async(name, "almenara_startup", settings=settings, context=context)

    async def shutdown(self, name: str, settings: Any, context: Context) -> None:
        """Shut a plugin down."""
        await self.call_async(name, "almenara_shutdown", settings=settings, context=context)

    def commands(
        self,
        name: str,
        read_settings: Callable[[], Any],
        read_requirements: Callable[[], Sequence[Requirement]],
        read_shared_log: Callable[[], SharedLog | None],
    ) -> list[click.Command]:
        """The commands that a plugin adds to `almenara`."""
        return list(
            self.call(
                name,
                "almenara_commands",
                read_settings=read_settings,
                read_requirements=read_requirements,
                read_shared_log=read_shared_log,
            )
            or ()
        )

    async def diagnose(self, name: str, settings: Any) -> list[Finding]:
        """The findings of a plugin about the system that it observes."""
        return list(await self.call_async(name, "almenara_diagnose", settings=settings) or ())

    async def review(self, name: str, requirements: Sequence[Requirement]) -> list[Finding] | None:
        """The findings of a plugin about requirements; None where it cannot review them."""
        findings = await self.call_async(name, "almenara_review", requirements=requirements)
        return None if findings is None else list(findings)


def _to_list(name: str, hook: str, result: Any) -> list[Any]:
    """What a hook returned, as a list; empty for None. Raises `PluginError`."""
    if result is not None and not isinstance(result, Iterable):
        raise PluginError(
            f"{hook} of plugin {name} must return a list; it returned {type(result).__name__}"
        )
    return list(result or ())


def _check_kind(kind: NotifierKind | SharedLogKind, described: str) -> None:
    """Check what makes objects from settings. Raises `PluginError`."""
    is_struct = isinstance(kind.settings, type) and issubclass(kind.settings, msgspec.Struct)
    if not is_struct or not callable(kind.create):
        raise PluginError(
            f"{described} must have a subclass of msgspec.Struct as `settings` and a function as"
            " `create`"
        )
