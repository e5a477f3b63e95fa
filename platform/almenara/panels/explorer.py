"""The chart of any metric: its filters name the series and say how they are drawn.

The metrics page draws it, and dashboards have it as often as they need it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args

import msgspec

from almenara.hookspecs import ChartStyle, Filter as FilterField, Level, SampleQuery, SeriesPanel
from almenara.panels.charts import ChartData, Window
from almenara.panels.filters import MAX_VALUE, ResourceFilters
from almenara.panels.kinds.base import affected_by_resources
from almenara.panels.kinds.chart_marks import offer_marks, read_marks
from almenara.panels.kinds.chart_reader import ChartReader
from almenara.panels.kinds.samples import REFRESH
from almenara.panels.kinds.series import prepare_picture
from almenara.panels.panel import IsAffected, Panel
from almenara.panels.view import View
from almenara.signals import Sample, Severity

NAME: Final = "chart"
ValueFormat = Literal["number", "bytes", "seconds", "percent"]
Function = Literal["mean", "min", "max", "rate", "p50", "p90", "p95", "p99", "buckets"]
Combine = Literal["", "sum", "mean", "max", "min"]
FORMATS: Final[Mapping[str, ValueFormat]] = {"By": "bytes", "s": "seconds"}
"""How the values of a metric are written, by its unit."""


class ChartFilters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which series a chart has, and how it draws them."""

    metric: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    function: Function = "mean"
    combine: Combine = ""
    """How all series become one line; empty for a line for each."""
    style: ChartStyle = "lines"
    scale: Literal["linear", "log"] = "linear"
    format: ValueFormat = "number"
    warn: float | None = None
    error: float | None = None
    """Values of thresholds."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 8

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the filters from the parameters of an address. Raises `ValueError`."""
        values = {name: text.strip()[:MAX_VALUE] for name, text in query.items() if text.strip()}
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(str(error).replace(" - at `$.", " in `")) from None

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        return {name: f"{value:g}" if isinstance(value, float) else str(value)
                for name, value in msgspec.to_builtins(self).items()}  # fmt: skip

    def declare(self) -> SeriesPanel:
        """The panel that draws them."""
        return SeriesPanel(
            name=NAME,
            title=self.metric,
            query=SampleQuery(
                kind=self.kind, metric=self.metric, namespace=self.namespace, name=self.name,
                function=self.function, combine=self.combine or "sum", limit=self.limit,
            ),
            format=self.format,
            style=self.style,
            scale=self.scale,
            combined=bool(self.combine),
            levels=[
                Level(title=title, value=value, severity=severity)
                for title, value, severity in (
                    ("warning", self.warn, Severity.WARN), ("error", self.error, Severity.ERROR)
                )
                if value is not None
            ],
        )  # fmt: skip


async def prepare(view: View, filters: ChartFilters) -> Mapping[str, Any]:
    """Make the picture of the last samples."""
    if not filters.metric:
        return {"lines": []}
    return await prepare_picture(ChartReader(filters.declare()), view, ResourceFilters())


async def read_chart(view: View, filters: ChartFilters, window: Window) -> ChartData:
    """Read the lines between two times."""
    declaration = filters.declare()
    data = await ChartReader(declaration).read(view, ResourceFilters(), None, window)
    marks = await read_marks(view, declaration.query.kind, (), {}, window)
    return msgspec.structs.replace(data, marks=marks)


def _is_affected(batch: Any, filters: ChartFilters) -> bool:
    is_selected: IsAffected = affected_by_resources(filters.declare().query)
    return is_selected(
        [record for record in batch if isinstance(record.signal, Sample)
         and record.signal.metric == filters.metric],
        None,
    )  # fmt: skip


def _choose(name: str, label: str, choices: Any, hint: str) -> FilterField:
    return FilterField(
        name=name, label=label, hint=hint, choices=tuple(filter(None, get_args(choices)))
    )


FIELDS: Final = (
    FilterField(name="metric", label="Metric", hint="cpu"),
    FilterField(name="kind", label="Kind", hint="any, or kubernetes.*"),
    FilterField(name="namespace", label="Namespace", hint="all"),
    FilterField(name="name", label="Name", hint="all, or web-*"),
    _choose("function", "Values", Function, "mean"),
    _choose("combine", "Combine", Combine, "a line for each"),
    _choose("style", "Style", ChartStyle, "lines"),
    _choose("scale", "Scale", Literal["linear", "log"], "linear"),
    _choose("format", "Unit", ValueFormat, "number"),
    FilterField(name="warn", label="Warning from", hint="no threshold"),
    FilterField(name="error", label="Error from", hint="no threshold"),
    FilterField(name="limit", label="Lines", hint="8"),
)
PANEL: Final = Panel(
    name=NAME,
    title="Chart",
    template="kind_series.html",
    prepare=prepare,
    is_affected=_is_affected,
    filters=frozenset(ChartFilters.__struct_fields__),
    filter_fields={field.name: field for field in FIELDS},
    parse=ChartFilters.from_query,
    refresh=REFRESH,
    kind="series",
    width=6,
    empty="No samples of this metric.",
    read_chart=read_chart,
    chart_span=3600.0,
    chart_marks=offer_marks(()),
    is_repeatable=True,
)
