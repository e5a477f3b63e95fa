"""The contract with plugins: what a plugin may register, and what it is given.

A plugin is a module that implements any of the hooks below with `@almenara.hookimpl`. This is one,
complete:

    import almenara, msgspec, shutil
    from almenara.sdk import every
    from almenara.signals import Sample

    class DiskSettings(msgspec.Struct, forbid_unknown_fields=True):
        path: str = "/"
        '''Folder on the disk to measure.'''

    class Disk:
        def __init__(self, settings):
            self.path = settings.path
        async def run(self, publish):
            async for _ in every(10):
                used = shutil.disk_usage(self.path).used
                await publish([Sample(kind="disk", name=self.path, metric="used", value=used)])

    @almenara.hookimpl
    def almenara_settings(): return DiskSettings

    @almenara.hookimpl
    def almenara_sources(settings): return [Disk(settings)]

Hooks receive their arguments by name and may leave out those they do not need, so that new
arguments break no plugin. A module that needs a newer contract than version 1 declares it:
`ALMENARA_API_VERSION = 2`; an older Almenara then refuses the plugin with that reason.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import click
import msgspec
import pluggy

from almenara.config.alert_rules import (
    AbsenceCondition as AbsenceCondition,
    AlertRule as AlertRule,
    Condition as Condition,
    EventCondition as EventCondition,
    ResourceCondition as ResourceCondition,
    ResourceLink as ResourceLink,
    SampleCondition as SampleCondition,
)
from almenara.intake_specs import (
    IntakeKind as IntakeKind,
    Push as Push,
    PushRefusedError as PushRefusedError,
)
from almenara.notification_specs import (
    Alert as Alert,
    AlertAction as AlertAction,
    Capabilities as Capabilities,
    Delivery as Delivery,
    DeliveryError as DeliveryError,
    DeliveryRefusedError as DeliveryRefusedError,
    InteractiveNotifier as InteractiveNotifier,
    Notification as Notification,
    Notifier as Notifier,
    NotifierKind as NotifierKind,
)
from almenara.panel_specs import (
    ChartStyle as ChartStyle,
    Column as Column,
    Columns as Columns,
    DataView as DataView,
    DetailPanel as DetailPanel,
    EventQuery as EventQuery,
    EventsPanel as EventsPanel,
    Filter as Filter,
    Format as Format,
    Level as Level,
    LogPanel as LogPanel,
    LogQuery as LogQuery,
    Marks as Marks,
    NumberPanel as NumberPanel,
    Page as Page,
    Panel as Panel,
    PanelExport as PanelExport,
    Prepare as Prepare,
    PrepareRows as PrepareRows,
    Query as Query,
    ResourceQuery as ResourceQuery,
    SampleQuery as SampleQuery,
    SelectResources as SelectResources,
    SeriesPanel as SeriesPanel,
    StatusPanel as StatusPanel,
    TablePanel as TablePanel,
    TemplatePanel as TemplatePanel,
)
from almenara.processor_specs import (
    Processor as Processor,
    ProcessorState as ProcessorState,
    Step as Step,
    Subscription as Subscription,
    TimedProcessor as TimedProcessor,
)
from almenara.shared_log import (
    LogBounds as LogBounds,
    LogMessage as LogMessage,
    LogReport as LogReport,
    LogSession as LogSession,
    SharedLog as SharedLog,
    SharedLogKind as SharedLogKind,
    SharedObjects as SharedObjects,
    SharedValues as SharedValues,
    ValueChange as ValueChange,
)
from almenara.signals import Severity, Signal
from almenara.text_specs import (
    LiveText as LiveText,
    TextStream as TextStream,
)

hookspec = pluggy.HookspecMarker("almenara")

Publish = Callable[[Sequence[Signal]], Awaitable[None]]
"""Publishes a batch; returns once the batch is durable and numbered. A source acknowledges upstream
only after that. Waits, without raising, while the bus cannot write or the source is above its rate.
Raises `ValueError` for a batch with an invalid signal, of which nothing is stored."""


class SourceReport(Protocol):
    """How a source reports its own health, for the Sources page."""

    def degraded(self, reason: str) -> None:
        """The source runs but cannot observe its system; `reason` says why and what to do."""

    def recovered(self) -> None:
        """The source observes its system again."""

    def lag(self, messages: int) -> None:
        """The number of messages that wait upstream."""

    def rejected(self, count: int = 1) -> None:
        """The number of messages that were stored with a problem marked."""


@runtime_checkable
class Source(Protocol):
    """The part of a plugin that observes one system; the supervisor runs and restarts it.

    A source may have a `name`; the default is the name of its plugin. It may have a `rate_limit`,
    the signals per second that it may publish in the long run, if the configured default is too low
    for it; the configuration of the source itself has precedence. It runs on an event loop of its
    own.
    """

    async def run(self, publish: Publish) -> None:
        """Observe until cancelled; the supervisor restarts it when it raises or returns."""


@runtime_checkable
class ReportingSource(Protocol):
    """A source that also reports its health: `run` has a second parameter named `report`."""

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled; the supervisor restarts it when it raises or returns."""


ResourceKey = tuple[str, str, str]
"""Kind, namespace and name of a resource."""


class Context(Protocol):
    """What the platform lends to a plugin."""

    data_dir: Path
    """A folder for this plugin alone that survives restarts. The plugin creates it when it first
    writes to it."""

    async def load(self, key: str) -> bytes | None:
        """The value that `save` stored under `key`, durable across restarts."""

    async def save(self, key: str, value: bytes) -> None:
        """Store a small value, such as a position upstream, durably."""

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        """The resources that the source of this name has published and not deleted, in this run or
        an earlier one; of one kind, or of all. A source that starts compares them with what exists,
        and publishes those as deleted that disappeared while it did not run (`sdk.Snapshots`)."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a log."""

    text: str
    time: int | None = None
    """Microseconds since the epoch."""
    severity: Severity = Severity.INFO
    source: str = ""
    """The writer, where there are several: a container, a worker."""


class ClusterRight(msgspec.Struct, frozen=True, kw_only=True):
    """A right in a Kubernetes cluster, in the terms of RBAC: `get` `pods`/`log`."""

    verb: str
    resource: str
    subresource: str = ""
    group: str = ""
    """The API group; empty for the core group."""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}" + (f"/{self.subresource}" if self.subresource else "")


class LogAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What a viewer must have access to in order to see the lines of a log stream."""

    source: str
    """The name of the source that observes the same system."""
    namespace: str = ""
    """The namespace, as in the signals of that source."""
    right: ClusterRight | None = None
    """The right that the viewer needs there, if `auth.authorization` is `kubernetes`."""


@runtime_checkable
class LogStream(Protocol):
    """Lines of a log, read only while a panel that shows them is open, and stored nowhere.

    Access to the lines follows the source that has the plugin's name and the namespace of the
    panel's filter. A stream of which this is not true has a method `access_for(filters)` that
    returns a `LogAccess`; it must not block, and raises `NotFound` where no such log exists. An
    attribute `rights` names every `ClusterRight` that reading its lines may need; a stream with one
    and without `access_for` always needs that one.
    """

    name: str
    """Unique within the plugin."""

    def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """Yield the last lines, then each new line, in batches; end when no more can come.

        `filters` are those of the panel. It runs on an event loop of its own, once for all viewers
        with the same filters, and is closed when the last of them leaves. An error is shown to the
        viewers with its text, and the stream is opened again; after `NotFound` it is not.
        """


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `almenara doctor`."""

    check: str
    """What was checked, in a few words: `NATS connection`."""
    verdict: Literal["ok", "warning", "failed"]
    message: str
    """What was observed."""
    remedy: str = ""
    """What to do about it; empty where nothing needs to be done."""


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin, as it is configured, must be permitted to do in another system.

    Plugins that share a system share a subclass of this, which says what; Almenara passes it on to
    the plugins that can review it (`almenara_review`) and print it (`almenara_commands`).
    """

    system: ClassVar[str]
    """The system, as `almenara doctor` names it: `Kubernetes`."""


@hookspec(firstresult=True)
def almenara_settings() -> type[msgspec.Struct]:
    """The struct of this plugin's settings, `plugins.<name>` in the configuration.

    If you rename a setting, list its former and its present name in `RENAMED:
    ClassVar[dict[str, str]]` of the struct: the error about the former name then has the present
    one.
    """
    raise NotImplementedError


@hookspec
def almenara_sources(settings: Any, context: Context) -> Sequence[Source | ReportingSource]:
    """The sources of this plugin, created from its settings."""
    raise NotImplementedError


@hookspec
def almenara_processors(settings: Any, context: Context) -> Sequence[Processor | TimedProcessor]:
    """The processors of this plugin, created from its settings."""
    raise NotImplementedError


@hookspec
def almenara_alert_rules(settings: Any) -> Sequence[AlertRule]:
    """Alert rules for what this plugin observes: few, and of what needs a person. Users can disable
    and replace each."""
    raise NotImplementedError


@hookspec
def almenara_resource_links(settings: Any) -> Sequence[ResourceLink]:
    """On which others the resources of this plugin depend."""
    raise NotImplementedError


@hookspec
def almenara_panels(settings: Any) -> Sequence[Panel]:
    """The panels of this plugin; they are on its main page unless `pages` places them elsewhere."""
    raise NotImplementedError


@hookspec
def almenara_pages(settings: Any) -> Sequence[Page]:
    """Further pages of panels, such as one about a single resource."""
    raise NotImplementedError


@hookspec
def almenara_log_streams(settings: Any, context: Context) -> Sequence[LogStream]:
    """The log streams that `LogPanel`s show."""
    raise NotImplementedError


@hookspec
def almenara_text_streams(settings: Any, context: Context) -> Sequence[TextStream]:
    """The texts that `TemplatePanel`s show while they are written."""
    raise NotImplementedError


@hookspec(firstresult=True)
def almenara_templates() -> Path | Mapping[str, str]:
    """A folder of Jinja templates, or templates by name, for `TemplatePanel`s."""
    raise NotImplementedError


@hookspec(firstresult=True)
def almenara_static() -> Path:
    """A folder of style sheets and images. A template links to one with
    `asset("<plugin>/name.svg")`; a style sheet named `panels.css` is part of every page."""
    raise NotImplementedError


@hookspec
def almenara_notifiers(settings: Any) -> Sequence[NotifierKind]:
    """The kinds of notifiers of this plugin, which receivers of `alerting.receivers` select."""
    raise NotImplementedError


@hookspec
def almenara_intakes(settings: Any) -> Sequence[IntakeKind]:
    """The kinds of intakes of this plugin: what senders push to `/intake/<kind>`."""
    raise NotImplementedError


@hookspec
def almenara_shared_logs(settings: Any) -> Sequence[SharedLogKind]:
    """The kinds of shared logs of this plugin, one of which `bus.kind` may select. Replicas that
    share a log have the same history."""
    raise NotImplementedError


@hookspec
def almenara_commands(
    read_settings: Callable[[], Any],
    read_requirements: Callable[[], Sequence[Requirement]],
    read_shared_log: Callable[[], SharedLog | None],
) -> Sequence[click.Command]:
    """Commands added to `almenara`. When called, `read_settings` reads this plugin's settings,
    `read_requirements` the requirements of all plugins as they are configured, and
    `read_shared_log` the log that `bus.kind` selects, of whatever plugin; None where the bus is
    embedded."""
    raise NotImplementedError


@hookspec
async def almenara_startup(settings: Any, context: Context) -> None:
    """Called before the plugin's sources run; while it raises, it is retried and they wait."""
    raise NotImplementedError


@hookspec
async def almenara_shutdown(settings: Any, context: Context) -> None:
    """Called once after the plugin's sources have ended."""
    raise NotImplementedError


@hookspec
async def almenara_diagnose(settings: Any) -> Sequence[Finding]:
    """What `almenara doctor` reports about the system that this plugin observes."""
    raise NotImplementedError


@hookspec
def almenara_requirements(settings: Any) -> Sequence[Requirement]:
    """What this plugin must be permitted to do in other systems. `almenara doctor` reports which
    permissions are missing; the plugin of a system has commands that print what to grant."""
    raise NotImplementedError


@hookspec
async def almenara_review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    """What `almenara doctor` reports about requirements: which of them are met. They are those of
    all plugins for one system. The first plugin that does not return None has reviewed them."""
    raise NotImplementedError
