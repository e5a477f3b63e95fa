"""One server: its status, the signals of each observation, and the events of its changes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from almenara.sdk import Changes, mark_unknown, now
from almenara.sdk.exposition import MetricFilter, Series, describe_unreadable, read_page
from almenara.sdk.histograms import bucket_metric
from almenara.signals import Event, Resource, Sample, Severity
from almenara.units import SECOND
from almenara_vllm.client import ModelEntry, ServerError
from almenara_vllm.kinds import (
    ASLEEP,
    ENGINE,
    FAILING,
    IDLE,
    MODEL,
    OK,
    PREEMPTING,
    SATURATED,
    SERVER,
    SEVERITIES,
    UNHEALTHY,
    UNKNOWN,
    UNREACHABLE,
)
from almenara_vllm.metrics import (
    PROCESS_START,
    MetricWindow,
    ModelFigures,
    count_adapters,
    make_filter,
)
from almenara_vllm.settings import VllmSettings

FILTER: Final = make_filter()
RATES: Final = (
    "prompt_tokens", "generated_tokens", "requests", "preemptions", "finished_stop",
    "finished_length", "finished_abort", "finished_error", "finished_repetition",
    "prompt_tokens_computed", "prompt_tokens_cached", "prompt_tokens_transferred",
)  # fmt: skip
SHARES: Final = {
    "cache_hit_rate": ("cache_hits", "cache_queries"),
    "multimodal_hit_rate": ("multimodal_hits", "multimodal_queries"),
    "draft_acceptance": ("accepted_tokens", "draft_tokens"),
    "error_share": ("finished_error", "requests"),
}
LARGEST_START: Final = 2**40
"""Seconds since the epoch before which a process has started."""
MAX_MODELS: Final = 50
"""Models and adapters of one page that are shown."""


class OtherPageError(ServerError):
    """A page is valid, but has no metric of vLLM."""


class Server:
    """What is known of one server."""

    def __init__(self, name: str, settings: VllmSettings, metrics_filter: MetricFilter) -> None:
        self.name, self._settings, self._filter = name, settings, metrics_filter
        self._window = MetricWindow(settings.window)
        self._waiting_since: float | None = None
        self.models: Sequence[ModelEntry] = ()
        self.version = ""
        self.unhealthy = ""
        """Why the server says that it is not healthy; empty if it is."""
        self._load: int | None = None
        """Requests in the API server; None unless the server counts them, or while unknown."""
        self._counts_load = False
        self._resources: list[Resource] = []
        self._last_answer = 0

    def accept(self, body: bytes, at: float) -> tuple[list[Resource], list[Sample]]:
        """Return the resources and samples of a page that was read at `at`, in monotonic seconds.
        Raises `ServerError` for a page without a metric of vLLM."""
        page = read_page(body, self._filter)
        if not page.is_readable:
            raise ServerError(describe_unreadable(page))
        models = dict(list(self._window.add(page, at).items())[:MAX_MODELS])
        if not models:
            raise OtherPageError("its page has no metric of vLLM; check url")
        self._last_answer = now()
        status, reason = self._judge(models, at)
        server = Resource(
            kind=SERVER, name=self.name, status=status, severity=SEVERITIES[status],
            state=self._describe(models, page.series, reason),
        )  # fmt: skip
        total = _total(models)
        total.gauges = {**total.gauges, **count_adapters(page.series)}
        resources, samples = [server], list(_make_samples(SERVER, "", self.name, total))
        if self._load is not None:
            samples.append(Sample(kind=SERVER, name=self.name, metric="load", value=self._load))
        for name, figures in models.items():
            resources.append(
                Resource(
                    kind=MODEL, namespace=self.name, name=name, status=status,
                    severity=SEVERITIES[status], state={"engines": len(figures.engines)},
                )
            )  # fmt: skip
            samples += _make_samples(MODEL, self.name, name, figures)
            samples += _make_buckets(self.name, name, figures)
            for engine, gauges in figures.engines.items():
                resources.append(
                    Resource(
                        kind=ENGINE, namespace=self.name, name=f"{name}/{engine}", status=status,
                        severity=SEVERITIES[status],
                    )
                )  # fmt: skip
                for metric in ("running", "waiting", "kv_cache"):
                    if (value := getattr(gauges, metric)) is not None:
                        samples.append(
                            Sample(kind=ENGINE, namespace=self.name, name=f"{name}/{engine}",
                                   metric=metric, value=value)
                        )  # fmt: skip
        self._resources = resources
        return resources, samples

    @property
    def has_answered(self) -> bool:
        """Whether it has answered since the source was started."""
        return bool(self._resources)

    def set_load(self, requests: int | None) -> None:
        """Set the requests in the API server, as `/load` reports them: always 0 where it does not
        count them; None where it cannot be read."""
        self._counts_load = self._counts_load or bool(requests)
        self._load = requests if self._counts_load else None

    def fail(self, reason: str) -> list[Resource]:
        """Return the resources of a server that does not answer, in their last known state."""
        self._window.clear()
        self._waiting_since = None
        known = self._resources or [Resource(kind=SERVER, name=self.name)]
        self._last_answer = self._last_answer or now()
        status = {SERVER: UNREACHABLE}
        return [
            mark_unknown(
                resource, reason, self._last_answer, status=status.get(resource.kind, UNKNOWN),
                severity=SEVERITIES[status.get(resource.kind, UNKNOWN)],
            )
            for resource in known
        ]  # fmt: skip

    def _judge(self, models: dict[str, ModelFigures], at: float) -> tuple[str, str]:
        """The status of the server and the reason; the worst that applies."""
        waiting = sum(figures.waiting for figures in models.values())
        self._waiting_since = (self._waiting_since or at) if waiting else None
        if self.unhealthy:
            return UNHEALTHY, self.unhealthy
        for figures in models.values():
            share = figures.share("finished_error", "requests")
            if share is not None and share >= self._settings.failing_share:
                return FAILING, "requests finish with an error"
        if any(figures.increases.get("preemptions") for figures in models.values()):
            return PREEMPTING, "running requests are preempted, as the KV cache is full"
        since = self._waiting_since
        if since is not None and at - since >= self._settings.saturated_after:
            return SATURATED, "requests wait for capacity"
        gauges = [figures.gauges for figures in models.values()]
        if any("engines_awake" in each for each in gauges) and not any(
            each.get("engines_awake") for each in gauges
        ):
            return ASLEEP, "all engines sleep; a request to /wake_up wakes them"
        is_idle = not waiting and not any(figures.running for figures in models.values())
        return (IDLE if is_idle else OK), ""

    def _describe(
        self, models: dict[str, ModelFigures], series: Iterable[Series], reason: str
    ) -> dict[str, Any]:
        served = [entry.id for entry in self.models if not entry.parent] or list(models)
        # Compared before it is rounded: a page can have no number here, or an infinite one.
        starts = [
            int(each.value)
            for each in series
            if each.name == PROCESS_START and 0 < each.value < LARGEST_START
        ]
        lengths = [entry.max_model_len for entry in self.models if entry.max_model_len]
        state = {
            "models": ", ".join(served)[:500],
            "adapters": sum(1 for entry in self.models if entry.parent) or None,
            "max_model_len": max(lengths, default=None),
            "version": self.version,
            "started": min(starts) * SECOND if starts else None,
            "reason": reason,
        }
        return {key: value for key, value in state.items() if value not in (None, "")}


def _total(models: dict[str, ModelFigures]) -> ModelFigures:
    """The figures of all models of a server that can be added up."""
    total = ModelFigures(seconds=max((each.seconds for each in models.values()), default=0.0))
    for name, figures in models.items():
        for engine, gauges in figures.engines.items():
            total.engines[f"{name}/{engine}"] = gauges
        for sample, value in figures.increases.items():
            total.increases[sample] = total.increases.get(sample, 0.0) + value
    if len(models) == 1:
        (only,) = models.values()
        total.gauges, total.means, total.quantiles = only.gauges, only.means, only.quantiles
    return total


def _make_samples(kind: str, namespace: str, name: str, figures: ModelFigures) -> Iterator[Sample]:
    values: dict[str, tuple[float | None, str]] = {
        "running": (figures.running, ""),
        "waiting": (figures.waiting, ""),
        "kv_cache": (figures.kv_cache, ""),
        **{metric: (value, "") for metric, value in figures.gauges.items()},
    }
    if figures.seconds > 0:
        for metric in RATES:
            if metric in figures.increases:
                values[metric] = figures.increases[metric] / figures.seconds, "1/s"
        for metric, (part, whole) in SHARES.items():
            values[metric] = figures.share(part, whole), ""
    for metric, value in figures.quantiles.items():
        values[metric] = value, "" if "length" in metric else "s"
    for metric, value in figures.means.items():
        values[f"{metric}_mean"] = value, "" if "length" in metric else "s"
    for metric, (number, unit) in values.items():
        if number is not None:
            yield Sample(
                kind=kind, namespace=namespace, name=name, metric=metric, value=number, unit=unit
            )


def _make_buckets(namespace: str, name: str, figures: ModelFigures) -> Iterator[Sample]:
    for sample, counts in figures.buckets.items():
        for limit, count in counts.items():
            yield Sample(
                kind=MODEL, namespace=namespace, name=name, metric=bucket_metric(sample, limit),
                value=count, unit="s",
            )  # fmt: skip


def find_transitions(change: Changes) -> Iterable[Event]:
    """The events of a change of a server."""
    before, after = change.before, change.after
    if before is None or after is None or after.kind != SERVER:
        return
    old, new = before.state, after.state
    if after.status != UNREACHABLE:
        if old.get("started") and new.get("started") and old["started"] != new["started"]:
            yield _make_event(
                after, "restarted", Severity.WARN, "the process was started again", new["started"]
            )
        if old.get("models") and new.get("models") and old["models"] != new["models"]:
            yield _make_event(
                after, "model_changed", Severity.INFO,
                f"serves {new['models']}, before {old['models']}", new["models"], after.time,
            )  # fmt: skip
    if before.status == after.status or {before.status, after.status} <= {OK, IDLE}:
        return
    if after.status in (OK, IDLE):
        name = "awake" if before.status == ASLEEP else "recovered"
        yield _make_event(after, name, Severity.INFO, f"{after.status} after {before.status}",
                          after.time)  # fmt: skip
    else:
        yield _make_event(
            after, after.status, after.severity, str(new.get("reason") or after.status), after.time
        )


def _make_event(
    resource: Resource, name: str, severity: Severity, reason: str, *distinction: object
) -> Event:
    return Event(
        id="/".join(map(str, (resource.name, name, *distinction))),
        source=f"vllm/{resource.name}",
        type=f"{SERVER}.{name}",
        subject=resource.name,
        time=resource.time,
        severity=severity,
        correlation=f"vllm/{resource.name}",
        data={"reason": reason, "models": resource.state.get("models", "")},
    )
