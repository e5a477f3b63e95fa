"""The panels and the page of the plugin."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from almenara.hookspecs import (
    DataView,
    EventQuery,
    EventsPanel,
    Format,
    Level,
    Marks,
    Page,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TemplatePanel,
)
from almenara.sdk import now
from almenara.signals import Resource, Severity
from almenara.units import MINUTE
from almenara_vllm.explanation import Read, explain
from almenara_vllm.kinds import ENGINE, MODEL, SERVER
from almenara_vllm.settings import VllmSettings

RECENT: Final = 2 * MINUTE
"""Microseconds for which a sample counts: without requests there are no newer latencies."""
CHARTS: Final[Sequence[tuple[str, str, str, str, Format]]] = (
    ("first-token", "Time to first token, p95", MODEL, "first_token_p95", "seconds"),
    ("between-tokens", "Time between tokens, p95", MODEL, "between_tokens_p95", "seconds"),
    ("tokens", "Generated tokens per second", MODEL, "generated_tokens", "number"),
    ("waiting", "Waiting requests", MODEL, "waiting", "number"),
    ("kv-cache", "KV cache of each engine", ENGINE, "kv_cache", "percent"),
    ("hit-rate", "Prefix cache hit rate", MODEL, "cache_hit_rate", "percent"),
    ("prompt-length", "Prompt tokens of a request, mean", MODEL, "prompt_length_mean", "number"),
    (
        "generation-length", "Generated tokens of a request, mean", MODEL,
        "generation_length_mean", "number",
    ),
    ("preemptions", "Preemptions per second", MODEL, "preemptions", "number"),
    ("errors", "Requests finished with an error", MODEL, "error_share", "percent"),
)  # fmt: skip
LEVELS: Final[Mapping[str, Sequence[Level]]] = {
    "kv-cache": [Level(title="nearly full", value=0.95, severity=Severity.WARN)],
}
MARKS: Final = (Marks(title="Changes of servers", filter={"type": f"{SERVER}.*"}),)
PHASES: Final = ("queue", "prefill", "decode")
LATENCIES: Final = (
    ("Time to first token", "first_token"),
    ("Time between tokens", "between_tokens"),
    ("Request", "request"),
)
PROMPT_SOURCES: Final = ("computed", "cached", "transferred")
FINISHES: Final = ("stop", "length", "abort", "error", "repetition")


def list_panels(settings: VllmSettings) -> Sequence[Panel]:
    """The panels."""
    is_simulated = any(entry.simulated for entry in settings.entries)
    return [
        StatusPanel(
            name="states", title="vLLM", query=ResourceQuery(kind=SERVER), width=12,
            on_overview=True,
        ),
        TemplatePanel(
            name="servers", title="Servers", template="vllm_servers.html", width=12,
            query=ResourceQuery(kind="vllm.*"), refresh=5.0,
            prepare=partial(prepare_servers, is_simulated=is_simulated),
            filters=["name", "status"], empty="No server has answered yet.",
        ),
        TemplatePanel(
            name="models", title="Latency by model", template="vllm_models.html", width=12,
            query=ResourceQuery(kind=MODEL), prepare=prepare_models, refresh=5.0,
            filters=["name", "status"], empty="No model is served yet.",
        ),
        *(
            SeriesPanel(
                name=name, title=title, query=SampleQuery(kind=kind, metric=metric),
                format=value_format, width=6, marks=MARKS, levels=LEVELS.get(name, ()),
            )
            for name, title, kind, metric, value_format in CHARTS
        ),
        SeriesPanel(
            name="first-token-histogram", title="Time to first token, distribution", width=6,
            query=SampleQuery(kind=MODEL, metric="first_token", function="buckets"),
            format="seconds", style="heatmap", marks=MARKS,
        ),
        SeriesPanel(
            name="request-duration", title="Duration of requests, p99", width=6,
            query=SampleQuery(kind=MODEL, metric="request", function="p99"), format="seconds",
            marks=MARKS,
        ),
        EventsPanel(
            name="changes", title="Changes of servers", width=12,
            query=EventQuery(filter={"type": f"{SERVER}.*"}, limit=20),
            filters=["severity", "subject"], empty="No server has changed its status.",
        ),
    ]  # fmt: skip


def list_pages(settings: VllmSettings) -> Sequence[Page]:
    """The page of the plugin."""
    names = [panel.name for panel in list_panels(settings)]
    return [
        Page(name="main", title="vLLM", panels=names, navigation=True, filters=["name", "status"])
    ]


def make_reader(data: DataView, resource: Resource) -> Read:
    """A function that returns the newest sample of a metric; None unless it is recent."""
    oldest = now() - RECENT

    def read(metric: str) -> float | None:
        series = data.series(resource, metric)
        if not series or series[-1][0] < oldest or "stale_since" in resource.state:
            return None
        return series[-1][1]

    return read


async def prepare_servers(
    data: DataView, filters: Mapping[str, str], *, is_simulated: bool = False
) -> Mapping[str, Any]:
    """The rows of the servers, those with a problem first."""
    engines: dict[str, list[Resource]] = {}
    for engine in data.resources(ResourceQuery(kind=ENGINE, limit=5_000)):
        engines.setdefault(engine.namespace, []).append(engine)
    servers = [
        server
        for server in data.resources(ResourceQuery(kind=SERVER, limit=1_000))
        if filters.get("status") in (None, "", server.status)
        and filters.get("name", "") in server.name
    ]
    servers.sort(key=lambda server: (-server.severity, server.name))
    return {
        "is_simulated": is_simulated,
        "rows": [describe_server(data, server, engines.get(server.name, ())) for server in servers],
    }


def describe_server(
    data: DataView, server: Resource, engines: Sequence[Resource]
) -> dict[str, Any]:
    """The row of a server."""
    read = make_reader(data, server)
    state = server.state
    return {
        "name": server.name,
        "status": server.status,
        "severity": server.severity.name,
        "models": state.get("models", ""),
        "version": state.get("version", ""),
        "stale_since": state.get("stale_since"),
        "running": read("running"),
        "waiting": read("waiting"),
        "load": read("load"),
        "adapters_running": read("adapters_running"),
        "adapters_waiting": read("adapters_waiting"),
        "tokens": read("generated_tokens"),
        "hit_rate": read("cache_hit_rate"),
        "engines": [
            {"name": engine.name, "kv_cache": make_reader(data, engine)("kv_cache")}
            for engine in engines
        ],
        "reason": state.get("reason", ""),
    }


async def prepare_models(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The latency of each model of each server, split into its phases."""
    models = [
        model
        for model in data.resources(ResourceQuery(kind=MODEL, limit=1_000))
        if filters.get("status") in (None, "", model.status)
        and filters.get("name", "") in f"{model.namespace} {model.name}"
    ]
    rows = [describe_model(data, model) for model in models]
    longest = max((sum(phase["seconds"] for phase in row["phases"]) for row in rows), default=0.0)
    for row in rows:
        offset = 0.0
        for phase in row["phases"]:
            phase["offset"] = 100 * offset / longest if longest else 0.0
            phase["width"] = 100 * phase["seconds"] / longest if longest else 0.0
            offset += phase["seconds"]
    return {"rows": rows, "latencies": [title for title, _ in LATENCIES]}


def describe_model(data: DataView, model: Resource) -> dict[str, Any]:
    """The row of a model."""
    read = make_reader(data, model)
    return {
        "name": model.name,
        "server": model.namespace,
        "status": model.status,
        "severity": model.severity.name,
        "phases": [
            {"name": phase, "seconds": seconds, "p95": read(f"{phase}_p95")}
            for phase in PHASES
            if (seconds := read(f"{phase}_mean")) is not None
        ],
        "latencies": [
            [read(f"{metric}_{quantile}") for quantile in ("p50", "p95", "p99")]
            for _, metric in LATENCIES
        ],
        "finishes": [
            {"name": reason, "rate": rate}
            for reason in FINISHES
            if (rate := read(f"finished_{reason}"))
        ],
        "sources": [
            {"name": source, "rate": rate}
            for source in PROMPT_SOURCES
            if (rate := read(f"prompt_tokens_{source}"))
        ],
        "explanation": explain(read),
    }
