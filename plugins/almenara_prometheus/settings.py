"""The Prometheus plugin's part of the configuration."""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from almenara.config import Secret, parse_http_url
from almenara_prometheus.presets import PRESETS

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
SHARE_SUFFIXES: Final = ("_ratio", "_perc", "_percent", "_percentage", "_utilization")
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class MetricSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How one metric family becomes a sample of a resource."""

    metric: str
    """Name of the series as on the page, with `_total`; for a quantile the name of the histogram,
    without `_bucket`."""
    sample: str
    """Name of the sample."""
    unit: str = ""
    """Unit of the sample by its UCUM code: `s`, `By`."""
    kind: str = "prometheus.series"
    """Kind of the resource that the sample belongs to."""
    name: str = "{target}"
    """Name of that resource; `{label}` is replaced by the value of a label, `{target}` by the name
    of the target. Several series with the same name are combined."""
    combine: Literal["sum", "mean", "max", "min"] | None = None
    """How several series of one resource become one value. By default `sum`, but `max` for shares:
    metrics named `_ratio`, `_perc`, `_percent`, `_percentage` or `_utilization`."""
    labels: dict[str, str] = {}
    """Only series with these labels."""
    rate: bool = False
    """Whether the metric is a counter: the sample is its increase per second."""
    quantile: Share | None = None
    """Quantile of a histogram, between 0 and 1, over the last interval."""
    scale: float = 1.0
    """Factor that the value is multiplied by."""

    def __post_init__(self) -> None:
        if self.rate and self.quantile is not None:
            raise ValueError(f"the metric {self.metric} has both rate and quantile; choose one")
        if self.combine is not None and self.quantile is not None:
            raise ValueError(
                f"the metric {self.metric} has both combine and quantile; the buckets of a"
                " histogram are always added up, so remove combine"
            )

    @property
    def how_to_combine(self) -> str:
        """How several series of one resource become one value."""
        return self.combine or ("max" if self.metric.endswith(SHARE_SUFFIXES) else "sum")


class TargetSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One page of metrics."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """Name of the target, unique among targets."""
    url: str
    """Address of the page, such as `http://vllm:8000/metrics`."""
    presets: list[Literal["vllm", "process"]] = []
    """Predefined mappings: `vllm` for a vLLM server, also behind Ray Serve; `process` for what most
    client libraries export."""
    metrics: list[MetricSettings] = []
    """Additional mappings."""
    headers: dict[str, Secret] = {}
    """Headers to send; each value may be a secret."""
    bearer: Secret | None = None
    """Token for the header `Authorization: Bearer`."""
    every: Positive = 10.0
    """Seconds between scrapes."""
    timeout: Positive = 5.0
    """Seconds until a scrape is given up."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    body_limit: Count = 16 * 1024**2
    """Maximum size of a page in bytes."""
    series_limit: Count = 500
    """Maximum number of resources of one page; the target is `partial` if there are more."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"the target {self.name}", "use bearer or headers")
        if not self.presets and not self.metrics:
            raise ValueError(
                f"the target {self.name} has nothing to read; add metrics, or presets"
                f" ({', '.join(PRESETS)})"
            )

    @property
    def mappings(self) -> list[MetricSettings]:
        """Its own mappings and those of its presets."""
        predefined = [
            msgspec.convert(mapping, MetricSettings)
            for preset in self.presets
            for mapping in PRESETS[preset]
        ]
        return [*predefined, *self.metrics]


class PrometheusSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The pages to scrape."""

    targets: list[TargetSettings] = []
    """The targets; without any the plugin does nothing."""

    def __post_init__(self) -> None:
        names = [target.name for target in self.targets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two targets are named {name!r}; rename one of them")
