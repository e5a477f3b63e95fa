"""The metrics of vLLM, over a sliding window: https://docs.vllm.ai/en/stable/usage/metrics/.

Names are those of the V1 engine. Older servers call the usage of the cache `gpu_cache_usage_perc`
and the time between tokens `time_per_output_token_seconds`; Ray Serve puts `ray_` in front of all
names and replaces their colon.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from almenara.sdk.exposition import MetricFilter, MetricsPage, Series
from almenara.sdk.histograms import increase, parse_limit, quantile

PREFIXES: Final = ("vllm:", "ray_vllm_", "ray_vllm:")
MODEL_LABEL: Final = "model_name"
ENGINE_LABEL: Final = "engine"
REPLICA_LABELS: Final = ("ReplicaId", "replica", "WorkerId")
"""Labels of Ray Serve that tell replicas apart, each of which counts its engines from 0; the first
one that a series has."""
LARGEST: Final = 1e18
"""Values from which on a series is left out, as is one that is no number: sums of them could be
infinite, and no sample can be."""
LONGEST_NAME: Final = 200

ENGINE_GAUGES: Final = {
    "num_requests_running": "running",
    "num_requests_waiting": "waiting",
    "kv_cache_usage_perc": "kv_cache",
    "gpu_cache_usage_perc": "kv_cache",
}
MODEL_GAUGES: Final = {
    ("num_requests_waiting_by_reason", "reason", "capacity"): "waiting_capacity",
    ("num_requests_waiting_by_reason", "reason", "deferred"): "waiting_deferred",
    ("engine_sleep_state", "sleep_state", "awake"): "engines_awake",
    ("engine_sleep_state", "sleep_state", "weights_offloaded"): "engines_offloaded",
    ("engine_sleep_state", "sleep_state", "discard_all"): "engines_discarded",
}
"""Metric, label and its value; added up over the engines of a model."""
COUNTERS: Final = {
    ("prompt_tokens_total", "", ""): "prompt_tokens",
    ("generation_tokens_total", "", ""): "generated_tokens",
    ("num_preemptions_total", "", ""): "preemptions",
    ("prefix_cache_queries_total", "", ""): "cache_queries",
    ("prefix_cache_hits_total", "", ""): "cache_hits",
    ("mm_cache_queries_total", "", ""): "multimodal_queries",
    ("mm_cache_hits_total", "", ""): "multimodal_hits",
    ("spec_decode_num_draft_tokens_total", "", ""): "draft_tokens",
    ("spec_decode_num_accepted_tokens_total", "", ""): "accepted_tokens",
    ("request_success_total", "", ""): "requests",
    **{
        ("request_success_total", "finished_reason", reason): f"finished_{reason}"
        for reason in ("stop", "length", "abort", "error", "repetition")
    },
    **{
        ("prompt_tokens_by_source_total", "source", source): f"prompt_tokens_{name}"
        for source, name in (
            ("local_compute", "computed"),
            ("local_cache_hit", "cached"),
            ("external_kv_transfer", "transferred"),
        )
    },
}
HISTOGRAMS: Final = {  # nosec B105 # names of metrics
    "time_to_first_token_seconds": "first_token",
    "inter_token_latency_seconds": "between_tokens",
    "time_per_output_token_seconds": "between_tokens",
    "e2e_request_latency_seconds": "request",
    "request_queue_time_seconds": "queue",
    "request_prefill_time_seconds": "prefill",
    "request_decode_time_seconds": "decode",
    "request_prompt_tokens": "prompt_length",
    "request_generation_tokens": "generation_length",
}
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
STORED_HISTOGRAMS: Final = ("first_token", "between_tokens", "request")
"""Histograms whose buckets are samples, for quantiles over any range of time."""
ADAPTERS: Final = "lora_requests_info"
"""The adapters with requests in the labels, and the time as the value: the newest series counts."""
ADAPTER_LABELS: Final = {
    "adapters_running": "running_lora_adapters",
    "adapters_waiting": "waiting_lora_adapters",
}
PROCESS_START: Final = "process_start_time_seconds"

HISTOGRAM_SAMPLES: Final = frozenset(HISTOGRAMS.values())
HISTOGRAM_SUMS: Final = {f"{name} sum": name for name in HISTOGRAM_SAMPLES}

Counts = dict[float, float]
Growth = dict[str, dict[str, Counts]]
"""Increases by model and sample."""
CounterKey = tuple[str, str, frozenset[tuple[str, str]]]
"""Model, sample and all labels but the limit of a bucket."""


def make_filter() -> MetricFilter:
    """The filter of the lines that are read."""
    names = {PROCESS_START}
    for prefix in PREFIXES:
        names.update(prefix + metric for metric in (*ENGINE_GAUGES, ADAPTERS))
        names.update(prefix + metric for metric, _, _ in (*MODEL_GAUGES, *COUNTERS))
        for metric in HISTOGRAMS:
            names.update(f"{prefix}{metric}{suffix}" for suffix in ("_bucket", "_sum", "_count"))
    return MetricFilter(names)


class EngineFigures(msgspec.Struct):
    """The gauges of one engine."""

    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None


class ModelFigures(msgspec.Struct):
    """The figures of one model of one server."""

    engines: dict[str, EngineFigures] = {}
    gauges: dict[str, float] = {}
    increases: dict[str, float] = {}
    """What each counter has grown by within the window."""
    quantiles: dict[str, float] = {}
    """`first_token_p95` and so on, of what was counted within the window."""
    means: dict[str, float] = {}
    """Means of the histograms: parts of a whole can be added up, quantiles cannot."""
    buckets: dict[str, Counts] = {}
    """What each bucket of a histogram has counted since the first page."""
    seconds: float = 0.0
    """The length of the window so far; 0 after the first page."""

    @property
    def running(self) -> float:
        """Running requests of all engines."""
        return sum(engine.running or 0 for engine in self.engines.values())

    @property
    def waiting(self) -> float:
        """Waiting requests of all engines."""
        return sum(engine.waiting or 0 for engine in self.engines.values())

    @property
    def kv_cache(self) -> float | None:
        """The usage of the cache of the fullest engine."""
        shares = [e.kv_cache for e in self.engines.values() if e.kv_cache is not None]
        return max(shares, default=None)

    def share(self, part: str, *whole: str) -> float | None:
        """The increase of a counter in relation to that of others together; None without any."""
        total = sum(self.increases.get(name, 0.0) for name in whole)
        return self.increases.get(part, 0.0) / total if total > 0 else None


class MetricWindow:
    """The pages of one server, of which the increases within the last seconds are kept.

    An increase is computed between two pages for each series alone, so that a restart of an engine
    makes no peak, and then added up over the window.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._counters: dict[CounterKey, Counts] = {}
        self._at = 0.0
        self._steps: deque[tuple[float, float, Growth]] = deque()
        """Time, length and the increases of each model and sample between two pages."""
        self._totals: Growth = {}
        """What histograms have counted since the first page."""

    def clear(self) -> None:
        """Forget everything, as after a server did not answer."""
        self._counters.clear()
        self._steps.clear()
        self._at = 0.0

    def add(self, page: MetricsPage, at: float) -> dict[str, ModelFigures]:
        """Add a page that was read at `at`, in monotonic seconds; return the figures by model."""
        models: dict[str, ModelFigures] = defaultdict(ModelFigures)
        counters: dict[CounterKey, Counts] = {}
        for series in page.series:
            metric = _strip_prefix(series.name)
            if metric is not None and abs(series.value) < LARGEST:
                _collect(metric, series, models, counters)
        for (model, sample, _), counts in counters.items():
            if sample in STORED_HISTOGRAMS:
                # From zero, so that the first increase counts.
                _add_up(self._totals, model, sample, dict.fromkeys(counts, 0.0))
        if self._at:
            self._add_step(counters, at)
        self._counters, self._at = counters, at
        self._summarize(models)
        return dict(models)

    def _add_step(self, counters: Mapping[CounterKey, Counts], at: float) -> None:
        grown: Growth = {}
        for (model, sample, labels), counts in counters.items():
            before = self._counters.get((model, sample, labels))
            if before is not None:
                growth = increase(before, counts)
                _add_up(grown, model, sample, growth)
                if sample in STORED_HISTOGRAMS:
                    _add_up(self._totals, model, sample, growth)
        self._steps.append((at, at - self._at, grown))
        while self._steps[0][0] <= at - self._seconds:
            self._steps.popleft()

    def _summarize(self, models: Mapping[str, ModelFigures]) -> None:
        totals: Growth = {}
        for _, _, grown in self._steps:
            for model, samples in grown.items():
                for sample, counts in samples.items():
                    _add_up(totals, model, sample, counts)
        seconds = sum(length for _, length, _ in self._steps)
        for name, figures in models.items():
            figures.seconds = seconds
            figures.buckets = {
                sample: dict(counts) for sample, counts in self._totals.get(name, {}).items()
            }
            _describe(figures, totals.get(name, {}))


def _add_up(grown: Growth, model: str, sample: str, counts: Mapping[float, float]) -> None:
    total = grown.setdefault(model, {}).setdefault(sample, {})
    for limit, count in counts.items():
        total[limit] = total.get(limit, 0.0) + count


def _describe(figures: ModelFigures, grown: Mapping[str, Counts]) -> None:
    for sample, counts in grown.items():
        total = counts.get(math.inf, 0.0)
        if sample in HISTOGRAM_SAMPLES:
            for suffix, share in QUANTILES.items():
                if (value := quantile(share, counts)) is not None:
                    figures.quantiles[f"{sample}_{suffix}"] = value
        elif sample in HISTOGRAM_SUMS:
            name = HISTOGRAM_SUMS[sample]
            number = grown.get(f"{name} count", {}).get(math.inf, 0.0)
            if number > 0 and total >= 0:
                figures.means[name] = total / number
        elif not sample.endswith(" count"):
            figures.increases[sample] = total


def count_adapters(series: Iterable[Series]) -> dict[str, float]:
    """How many LoRA adapters have running and waiting requests; empty without adapters."""
    known = [each for each in series if _strip_prefix(each.name) == ADAPTERS]
    if not known:
        return {}
    labels = max(known, key=lambda each: each.value).labels
    return {
        sample: float(len([name for name in labels.get(label, "").split(",") if name.strip()]))
        for sample, label in ADAPTER_LABELS.items()
    }


def _strip_prefix(name: str) -> str | None:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return None


def _collect(
    metric: str,
    series: Series,
    models: dict[str, ModelFigures],
    counters: dict[CounterKey, Counts],
) -> None:
    """Add one series to the figures of its model, or to the counters."""
    labels = series.labels
    model = labels.get(MODEL_LABEL, "")[:LONGEST_NAME] or "unnamed"
    if (sample := ENGINE_GAUGES.get(metric)) is not None:
        figures = models[model].engines.setdefault(_name_engine(labels), EngineFigures())
        setattr(figures, sample, series.value)
        return
    for sample in _list_gauges(metric, labels):
        gauges = models[model].gauges
        gauges[sample] = gauges.get(sample, 0.0) + series.value
    identity = frozenset(item for item in labels.items() if item[0] != "le")
    for sample, limit in _list_counts(metric, labels):
        models[model]
        counts = counters.setdefault((model, sample, identity), {})
        counts[limit] = counts.get(limit, 0.0) + series.value


def _name_engine(labels: Mapping[str, str]) -> str:
    replica = next((labels[name] for name in REPLICA_LABELS if labels.get(name)), "")
    parts = filter(None, (replica[:LONGEST_NAME], labels.get(ENGINE_LABEL, "")[:LONGEST_NAME]))
    return "/".join(parts) or "0"


def _list_gauges(metric: str, labels: Mapping[str, str]) -> Iterable[str]:
    for (name, label, value), sample in MODEL_GAUGES.items():
        if name == metric and labels.get(label) == value:
            yield sample


def _list_counts(metric: str, labels: Mapping[str, str]) -> Iterable[tuple[str, float]]:
    """The samples that a series counts for, each with the limit of its bucket."""
    for (name, label, value), sample in COUNTERS.items():
        if name == metric and (not label or labels.get(label) == value):
            yield sample, math.inf
    base, _, suffix = metric.rpartition("_")
    histogram = HISTOGRAMS.get(base)
    if histogram is None:
        return
    if suffix in ("sum", "count"):
        yield f"{histogram} {suffix}", math.inf
    elif suffix == "bucket" and (limit := parse_limit(labels.get("le", ""))) is not None:
        yield histogram, limit
