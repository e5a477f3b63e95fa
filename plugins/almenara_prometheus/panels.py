"""The panels: scraped targets, their changes, and models of vLLM where its preset is used."""

from collections.abc import Sequence
from typing import Literal

from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    NumberPanel,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    TablePanel,
)
from almenara_prometheus.settings import PrometheusSettings

MODEL = "vllm.model"


def panels(settings: PrometheusSettings) -> Sequence[Panel]:
    """The panels of the plugin."""
    uses_vllm = any("vllm" in target.presets for target in settings.targets)
    return [targets_panel(), *(vllm_panels() if uses_vllm else ()), changes_panel()]


def targets_panel() -> Panel:
    """The table of targets."""
    return TablePanel(
        name="targets",
        title="Scraped targets",
        query=ResourceQuery(kind="prometheus.target"),
        columns=[
            Column(title="Target", path="name"),
            Column(title="State", path="status", format="status"),
            Column(
                title="Scrape", path="sample.scrape_duration", format="seconds",
                spark="scrape_duration",
            ),
            Column(title="Series", path="sample.series", format="number"),
            Column(title="Since", path="state.since", format="age"),
            Column(title="Message", path="state.reason"),
        ],
        filters=["name", "status", "text"],
        width=12,
    )  # fmt: skip


def changes_panel() -> Panel:
    """The events of targets."""
    return EventsPanel(
        name="changes",
        title="Target events",
        query=EventQuery(filter={"type": "prometheus.target.*"}, limit=20),
        width=12,
        empty="No target has changed its state.",
    )


def vllm_panels() -> Sequence[Panel]:
    """Numbers, charts and a table of the models of vLLM."""
    return [
        _number("vllm_running", "Requests running", "running"),
        _number("vllm_waiting", "Requests waiting", "waiting"),
        _number("vllm_tokens", "Tokens per second", "generated_tokens"),
        NumberPanel(
            name="vllm_cache",
            title="KV cache usage",
            query=SampleQuery(kind=MODEL, metric="kv_cache", combine="max"),
            format="percent",
            width=3,
        ),
        _latency("vllm_first_token", "Time to first token, p95", "first_token_p95"),
        _latency("vllm_between_tokens", "Time between tokens, p95", "between_tokens_p95"),
        TablePanel(
            name="vllm_models",
            title="Models",
            query=ResourceQuery(kind=MODEL),
            columns=[
                Column(title="Model", path="name"),
                Column(title="Target", path="namespace"),
                Column(title="State", path="status", format="status"),
                Column(title="Running", path="sample.running", format="number", spark="running"),
                Column(title="Waiting", path="sample.waiting", format="number", spark="waiting"),
                Column(title="Tokens/s", path="sample.generated_tokens", format="number"),
                Column(title="First token p95", path="sample.first_token_p95", format="seconds"),
                Column(title="KV cache", path="sample.kv_cache", format="percent"),
            ],
            filters=["name", "namespace"],
            width=12,
        ),
    ]


def _number(name: str, title: str, metric: str, combine: Literal["sum", "max"] = "sum") -> Panel:
    query = SampleQuery(kind=MODEL, metric=metric, combine=combine)
    return NumberPanel(name=name, title=title, query=query, width=3)


def _latency(name: str, title: str, metric: str) -> Panel:
    query = SampleQuery(kind=MODEL, metric=metric)
    return SeriesPanel(name=name, title=title, query=query, format="seconds", width=6)
