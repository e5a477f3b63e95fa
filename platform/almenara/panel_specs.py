"""The panels and pages that a plugin declares, with their queries and filters.

Part of the contract: `almenara.hookspecs` has all of these names.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import msgspec

from almenara.config import PlacedPanel
from almenara.signals import Event, Resource, Severity, Signal
from almenara.structs import NamedStructMeta

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
    """How the samples of several resources are combined into one number, or one line."""
    function: Literal["mean", "min", "max", "rate", "p50", "p90", "p95", "p99", "buckets"] = "mean"
    """What a chart shows of the samples of a step: `rate` is the increase of a counter a second,
    `p95` a quantile of a histogram, and `buckets` what each of its buckets counted, for a
    heat map. The metric of a histogram is that of its buckets without `_bucket` and limit."""
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
    """A column of a table, or a line of a detail."""

    title: str
    path: str
    """Where the value is. Of a resource: `name`, `namespace`, `status`, `time`; `state.code` within
    the state, with dots between the levels; `sample.latency` for the newest sample of a metric. Of
    an event: `time`, `type`, `subject`, `severity`, `origin`, `source`, `correlation`, `id`,
    `summary`; `data.code` within the payload, `attributes.traceparent`."""
    format: Format = "text"
    """How the value is displayed. `seconds` and `bytes` take the number, `percent` the share (0.5
    is 50 %), `time` and `age` microseconds since the epoch."""
    spark: str = ""
    """A metric whose last samples are displayed as a sparkline beside the value."""


class DataView(Protocol):
    """Read access for a panel that prepares its own values, limited to the viewer's scope."""

    @property
    def moment(self) -> int | None:
        """The moment that everything is as of, in microseconds; None for the present. A panel that
        reads from the observed system itself must not do so for a moment of the past."""

    def resources(self, query: ResourceQuery) -> Sequence[Resource]:
        """The resources that exist now, by kind, namespace and name."""

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        """One resource; None where it does not exist or is outside the scope."""

    def latest(self, resource: Resource, metric: str) -> float | None:
        """The newest sample of a metric of a resource."""

    def series(self, resource: Resource, metric: str) -> Sequence[tuple[int, float]]:
        """Time in microseconds and value of the last samples of a metric, oldest first."""

    async def prefetch(self, resources: Sequence[Resource], metrics: Sequence[str]) -> None:
        """Read the samples that `latest` is about to return for many resources at once, which makes
        a page of the past faster. The samples of the present are in memory."""

    def permits(self, signal: Signal) -> bool:
        """Whether the viewer's scope shows a signal, such as one that is not stored."""

    def redact(self, resource: Resource) -> Resource:
        """A resource that was not published, with its secrets masked as those of stored ones."""

    def has_role(self, role: Literal["viewer", "operator"]) -> bool:
        """Whether the viewer has at least this role."""

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


class Level(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """A horizontal line of a chart: a threshold, or a limit that resources report."""

    title: str
    value: float | None = None
    """Where the line is; None where the resources report it."""
    path: str = ""
    """The path of the value within the resources of the chart, such as `state.cpu_limit`. It is
    the sum over all of them where the chart stacks or combines them; otherwise it is drawn where
    all report the same."""
    severity: Severity = Severity.INFO
    """Colours the line: `WARN` and `ERROR` for thresholds."""
    colors: Literal["", "above", "below"] = ""
    """The side of the line on which bars have its colour; where any level has one, bars beside all
    of them are green."""


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
PrepareRows = Callable[[DataView, Mapping[str, str]], Awaitable[Sequence[Mapping[str, Any]]]]
"""Makes the rows of a table, as `Prepare` makes the values of a template."""

SelectResources = Callable[[DataView, Mapping[str, str]], Awaitable[Sequence[Resource]]]
"""Returns the resources whose samples a chart draws, from a `DataView` and the panel's filters. It
runs as `Prepare` does."""
NarrowFilter = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Returns filters of events for the values of a panel's filters."""
ChartStyle = Literal["lines", "area", "stacked", "bars", "heatmap"]


class Marks(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """Events that a chart marks on its time axis, each a link; viewers choose them by title."""

    title: str
    filter: Mapping[str, str]
    """As in an `EventQuery`."""
    narrow: NarrowFilter | None = None
    """Adds to the filter what the panel is about: `{"subject": "pod/shop/web-1"}`."""
    is_default: bool = True
    """Whether they are displayed until a viewer chooses others."""


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
    of resources and samples `namespace`, `name`, `status`, `text` and `state.…`, the path of a
    value in the state; log panels `text` and what the log stream knows; panels with `prepare`
    any."""
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
    columns: Sequence[Column] = ()
    """Columns of a table in place of the usual rows."""
    severities: Mapping[str, Severity] = {}
    """The severity of events of a type, by name or pattern, where it is INFO in itself; it colours
    their rows. The first that matches counts."""


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
    prepare: PrepareRows | None = None
    """An `async def prepare(data, filters)` that returns the rows, in place of the resources of the
    query, which then decides which signals have the panel rendered again. Each row maps the paths
    of columns, which may have any names, to values; `severity` colours a status, and `link` is the
    address that its first column links to. It must not block."""


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
    """A chart of stored samples with a line for each resource, or one for all of them."""

    query: SampleQuery
    format: Format = "number"
    """How values are written, on the axis as well."""
    style: ChartStyle = "lines"
    """`stacked` adds the lines up, for parts of a whole; `bars` has a bar for each step, in a row
    for each line where there are several; `heatmap` has a row of cells for each line, coloured by
    the levels where there are any: the first one above the value counts."""
    scale: Literal["linear", "log"] = "linear"
    """`log` for values of several orders of magnitude; a viewer can switch."""
    levels: Sequence[Level] = ()
    """Thresholds and limits, as lines."""
    marks: Sequence[Marks] = ()
    """Events that are marked, beside alerts and failures."""
    combined: bool = False
    """Whether there is one line for all resources, by `combine` of the query."""
    line_names: Literal["resource", "name", "namespace"] = "resource"
    """What lines are called: namespace and name of their resource, or one of them, where the other
    is the same for all."""
    select: SelectResources | None = None
    """An `async def select(data, filters)` that returns the resources to draw, where the query
    cannot name them: the pods of a workload. The panel then accepts any filters."""
    span: Annotated[float, msgspec.Meta(ge=60)] = 3600
    """Seconds that the chart shows while its page shows no other range."""
    step: Annotated[float, msgspec.Meta(ge=0)] = 0
    """Seconds from one point to the next, such as a day for bars; 0 for as fine as fits."""

    @property
    def value_format(self) -> Format:
        """How the values of lines are written: those of buckets are counts, while `format` is of
        their limits."""
        return "number" if self.query.function == "buckets" else self.format


class LogPanel(Panel, frozen=True, kw_only=True, tag="log"):
    """The last lines of a `LogStream`, followed while the panel is open."""

    query: LogQuery


class PanelExport(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """A file that a `TemplatePanel` can be downloaded as, rendered from the same values."""

    name: str
    """The extension of the file, in lower-case letters and digits; part of its address."""
    title: str
    """The text of the link."""
    template: Annotated[str, msgspec.Meta(min_length=1)]
    """A name that `almenara_templates` provides. It is given what the panel's template is given,
    and everything printed is escaped, as in XML."""
    media_type: str


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
    texts: str = ""
    """Name of a `TextStream` of the plugin, whose texts the template displays as `texts`, by their
    key: `{{ ui.live_text(texts[key]) }}`. New text is sent without rendering the panel again. Needs
    `prepare`."""
    exports: Sequence[PanelExport] = ()
    """The files that it can be downloaded as, at `/panels/<plugin>.<name>/exports/<export>` with
    the filters of the panel. Its template links to them: `panel.exports`."""


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
    order: int = 0
    """Its place in the navigation among the pages of plugins: lower ones come first, and equal ones
    in the order of the names of their plugins."""
    icon: str = ""
    """An image of `almenara_static` in front of its title in the navigation, such as
    `icon.svg`."""
