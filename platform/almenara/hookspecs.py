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
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import click
import msgspec
import pluggy

from almenara.config import PlacedPanel
from almenara.signals import Event, Resource, Severity, Signal
from almenara.structs import NamedStructMeta

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


Columns = Annotated[int, msgspec.Meta(ge=1, le=12)]


class EventQuery(
    msgspec.Struct, frozen=True, kw_only=True, tag="events", metaclass=NamedStructMeta
):
    """Events, newest first."""

    filter: Mapping[str, str] = {}
    """As in the address of the events page: `{"type": "http.*", "severity": "WARN"}`."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    """Events shown at most."""


class ResourceQuery(
    msgspec.Struct, frozen=True, kw_only=True, tag="resources", metaclass=NamedStructMeta
):
    """Resources that exist now, by namespace and name."""

    kind: str
    """Kind, or a pattern as in NATS subjects: `ray.job`, `kubernetes.*`."""
    namespace: str = ""
    """Namespace, or a pattern; empty for all."""
    name: str = ""
    """Name, or a pattern; empty for all."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=200_000)] = 200
    """Resources given at most."""


class SampleQuery(
    msgspec.Struct, frozen=True, kw_only=True, tag="samples", metaclass=NamedStructMeta
):
    """The last samples of a metric of the resources of a kind."""

    kind: str
    metric: str
    namespace: str = ""
    name: str = ""
    combine: Literal["sum", "mean", "max", "min"] = "sum"
    """How the samples of several resources are combined into one number."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 8
    """Lines of a time series at most: those with the highest newest values."""


class LogQuery(msgspec.Struct, frozen=True, kw_only=True, tag="log", metaclass=NamedStructMeta):
    """The lines of a log stream, which is read while a panel that shows it is open."""

    stream: str
    """Name of a `LogStream` of the plugin."""
    limit: Annotated[int, msgspec.Meta(ge=10, le=5000)] = 500
    """Lines shown at most: the last ones."""


Query = EventQuery | ResourceQuery | SampleQuery | LogQuery
Format = Literal["text", "number", "bytes", "seconds", "percent", "time", "age", "status"]


class Column(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """A column of a table of resources, or a line of a detail."""

    title: str
    path: str
    """Where the value is: `name`, `namespace`, `status`, `time`; `state.code` within the state,
    with dots between the levels; `sample.latency` for the newest sample of a metric."""
    format: Format = "text"
    """How the value is displayed. `seconds` and `bytes` take the number, `percent` the share (0.5
    is 50 %), `time` and `age` microseconds since the epoch."""
    spark: str = ""
    """A metric whose last samples are displayed as a sparkline beside the value."""


class DataView(Protocol):
    """Read access for a panel that prepares its own values, limited to the viewer's scope."""

    def resources(self, query: ResourceQuery) -> Sequence[Resource]:
        """The resources that exist now, by kind, namespace and name."""

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        """One resource; None where it does not exist or is outside the scope."""

    def latest(self, resource: Resource, metric: str) -> float | None:
        """The newest sample of a metric of a resource."""

    def series(self, resource: Resource, metric: str) -> Sequence[tuple[int, float]]:
        """Time in microseconds and value of the last samples of a metric, oldest first."""

    async def events(
        self,
        filter: Mapping[str, str],  # noqa: A002
        *,
        limit: int = 50,
        before: int | None = None,
        after: int | None = None,
    ) -> Sequence[tuple[int, Event]]:
        """Events with their sequence, newest first; `filter` as in `EventQuery`, `before` and
        `after` are sequences that bound them. Raises `ValueError` for an invalid filter."""

    async def count(self, filter: Mapping[str, str], *, limit: int = 10_000) -> int:  # noqa: A002
        """The number of events that match a filter; counting stops at `limit`."""


class Filter(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """How a filter of panels is entered on their pages."""

    name: str
    """The name of its parameter in the address."""
    label: str = ""
    """The label of the field; the default is the name."""
    hint: str = ""
    """The placeholder of the empty field, such as an example."""
    choices: Sequence[str] = ()
    """The valid values; with them the field is a list to choose from."""


Prepare = Callable[[DataView, Mapping[str, str]], Awaitable[Mapping[str, Any]]]
"""Makes the values of a template from a `DataView` and the panel's filters in the address. It runs
on the server's event loop, once for all viewers of the panel, and must not block."""


class Panel(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", metaclass=NamedStructMeta):
    """A server-rendered view of signals that stays live: what all kinds of panels have in common.

    Return one of the kinds: `EventsPanel`, `TablePanel`, `DetailPanel`, `StatusPanel`,
    `NumberPanel`, `SeriesPanel` and `LogPanel` render themselves; a `TemplatePanel` is rendered by
    a template of the plugin.
    """

    name: str
    """In letters, digits, `_` and `-`; the full name is `<plugin>.<name>`."""
    title: str
    refresh: Annotated[float, msgspec.Meta(ge=0.5)] | None = None
    """Seconds after which the panel is rendered again without a signal, for what changes with the
    time alone. Panels that show ages do so every 5 seconds without it."""
    filters: Sequence[str | Filter] = ()
    """The filters that the panel accepts from the address of its page: names, or `Filter`s that
    describe how they are entered. Panels of events accept the filters of the events page; panels
    of resources and samples `namespace`, `name`, `status` and `text`; log panels `text` and what
    the log stream knows; template panels with `prepare` any."""
    width: Columns = 6
    """Columns of the twelve of the grid."""
    height: Annotated[int, msgspec.Meta(ge=0, le=12)] = 0
    """Rows of the grid, after which the panel scrolls; 0 for as tall as its content."""
    empty: str = "Nothing to show yet."
    """The text of the panel while there is nothing to show."""
    on_overview: bool = False
    """Whether the panel is displayed on the overview instead of the plugin's page. Without such a
    panel, the overview displays the plugin's `StatusPanel`s and `NumberPanel`s."""


class EventsPanel(Panel, frozen=True, kw_only=True, tag="events"):
    """A list of events, newest first."""

    query: EventQuery


class TablePanel(Panel, frozen=True, kw_only=True, tag="table"):
    """A table with a row for each resource, sortable by each column (the filter `sort`)."""

    query: ResourceQuery
    columns: Annotated[Sequence[Column], msgspec.Meta(min_length=1)]
    sort: str = ""
    """The path of the column that sorts the table at first; `-` in front for descending."""
    link: str = ""
    """The page or panel of this plugin that a name links to, with `namespace` and `name` in its
    address; empty to link to the events about the resource."""
    severities: Mapping[str, Severity] = {}
    """The severity of a status, for resources that report none; it colours the status."""


class DetailPanel(Panel, frozen=True, kw_only=True, tag="detail"):
    """The facts about one resource, or a few: a list of titles and values for each."""

    query: ResourceQuery
    columns: Annotated[Sequence[Column], msgspec.Meta(min_length=1)]
    link: str = ""
    """As for a `TablePanel`."""
    severities: Mapping[str, Severity] = {}
    """As for a `TablePanel`."""


class StatusPanel(Panel, frozen=True, kw_only=True, tag="status"):
    """A chip with the status of each resource, the worst first."""

    query: ResourceQuery
    link: str = ""
    """As for a `TablePanel`."""
    severities: Mapping[str, Severity] = {}
    """As for a `TablePanel`."""


class NumberPanel(Panel, frozen=True, kw_only=True, tag="number"):
    """The newest sample as a large number, with a sparkline."""

    query: SampleQuery
    format: Format = "number"


class SeriesPanel(Panel, frozen=True, kw_only=True, tag="series"):
    """A chart with a line for each resource."""

    query: SampleQuery
    format: Format = "number"
    """How values are written, on the axis as well."""


class LogPanel(Panel, frozen=True, kw_only=True, tag="log"):
    """The last lines of a `LogStream`, followed while the panel is open."""

    query: LogQuery


class TemplatePanel(Panel, frozen=True, kw_only=True, tag="template"):
    """A panel rendered by a template of the plugin."""

    query: EventQuery | ResourceQuery | SampleQuery
    """What the template is given, as `events`, `resources` or `series`. With `prepare` it only
    decides which signals have the panel rendered again."""
    template: Annotated[str, msgspec.Meta(min_length=1)]
    """A name that `almenara_templates` provides. It is given `panel`, `moment`, and the result of
    the query or of `prepare`; `{% import "macros.html" as ui %}` imports the parts that our own
    templates are made of."""
    prepare: Prepare | None = None
    """An `async def prepare(data, filters)` that returns the values of the template besides
    `panel` and `moment`, from a `DataView` and the panel's filters in the address. It must not
    block."""
    severities: Mapping[str, Severity] = {}
    """As for a `TablePanel`, for the `severity` of each of the `resources`."""


class Page(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """A page of panels of a plugin, at `/dashboards/<plugin>.<name>`.

    Each panel receives the parameters of the page's address that are filters of its own, so that a
    page with `?namespace=a&name=b` is about one resource. The page named `main` is the main page of
    the plugin; without one, the main page has the panels that are on no other page.
    """

    name: str
    """In letters, digits, `_` and `-`."""
    title: str
    panels: Sequence[str | PlacedPanel]
    """Panels of this plugin by their name, or of another by their full name."""
    filters: Sequence[str | Filter] = ()
    """The filters that can be entered on the page: names, or `Filter`s that describe how they are
    entered; `namespace` and `name` are part of the page's title unless they are among these."""
    navigation: bool = False
    """Whether the navigation links to the page; it should not for pages about one resource."""


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


@runtime_checkable
class Notifier(Protocol):
    """Delivers notifications; reserved: version 1 of the contract calls no notifier."""

    async def notify(self, events: Sequence[Event]) -> None:
        """Deliver the events; raise to have them delivered again."""


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
    """The struct of this plugin's settings, `plugins.<name>` in the configuration."""
    raise NotImplementedError


@hookspec
def almenara_sources(settings: Any, context: Context) -> Sequence[Source | ReportingSource]:
    """The sources of this plugin, created from its settings."""
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
def almenara_notifiers(settings: Any) -> Sequence[Notifier]:
    """Reserved for notifiers; version 1 of the contract does not call it."""
    raise NotImplementedError


@hookspec
def almenara_commands(
    read_settings: Callable[[], Any], read_requirements: Callable[[], Sequence[Requirement]]
) -> Sequence[click.Command]:
    """Commands added to `almenara`. When called, `read_settings` reads this plugin's settings, and
    `read_requirements` the requirements of all plugins as they are configured."""
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
