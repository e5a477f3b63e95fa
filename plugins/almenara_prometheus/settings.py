"""The Prometheus plugin's part of the configuration."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from almenara.config import Secret, parse_http_url
from almenara_prometheus.presets import PRESETS

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class MetricSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How one metric family becomes a sample of a resource."""

    metric: str
    """Name of the series, as the page has it, `_total` included; for a quantile the name of the
    histogram, without `_bucket`."""
    sample: str
    """What the sample is called."""
    unit: str = ""
    """Its unit by its UCUM code: `s`, `By`."""
    kind: str = "prometheus.series"
    """Kind of the resource it is a sample of."""
    name: str = "{target}"
    """Name of that resource; `{label}` stands for the value of a label, `{target}` for the name of
    the target. Series that come to the same name are added up."""
    labels: dict[str, str] = {}
    """Only series with these values of labels."""
    rate: bool = False
    """Whether it counts up: the sample is then the increase a second."""
    quantile: Share | None = None
    """Of a histogram: the share below which this many of the last interval's values lie."""
    scale: float = 1.0
    """What the value is multiplied with."""

    def __post_init__(self) -> None:
        if self.rate and self.quantile is not None:
            raise ValueError(f"the metric {self.metric} has both rate and quantile; choose one")


class TargetSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One page of metrics."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """What people call it; no two targets share one."""
    url: str
    """Address of the page, such as `http://vllm:8000/metrics`."""
    presets: list[Literal["vllm", "process"]] = []
    """Ready-made mappings: `vllm` for a vLLM server, `process` for what most clients export."""
    metrics: list[MetricSettings] = []
    """Further mappings."""
    headers: dict[str, Secret] = {}
    """Headers to send; each value may be a secret."""
    bearer: Secret | None = None
    """Token for the header `Authorization: Bearer`."""
    every: Positive = 10.0
    """Seconds between scrapes."""
    timeout: Positive = 5.0
    """Seconds for the whole of a scrape."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    body_limit: Count = 16 * 1024**2
    """Bytes of a page at most."""
    series_limit: Count = 500
    """Resources that one page may become at most; more are left out, and that is told."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"the target {self.name}", "use bearer or headers")
        if not self.presets and not self.metrics:
            raise ValueError(
                f"the target {self.name} says nothing of what to read; give it metrics, or presets"
                f" ({', '.join(PRESETS)})"
            )

    @property
    def mappings(self) -> list[MetricSettings]:
        """Its own mappings and those of its presets."""
        found = [
            msgspec.convert(it, MetricSettings) for name in self.presets for it in PRESETS[name]
        ]
        return [*found, *self.metrics]


class PrometheusSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The pages to read."""

    targets: list[TargetSettings] = []
    """The pages; without any the plugin does nothing."""

    def __post_init__(self) -> None:
        names = [target.name for target in self.targets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"targets holds two named {name!r}; each needs its own name")
