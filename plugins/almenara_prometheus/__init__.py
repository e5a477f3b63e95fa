"""Prometheus: what any `/metrics` page says, as samples and resources."""

from collections.abc import Sequence

import almenara
from almenara.hookspecs import (
    Column,
    Context,
    EventQuery,
    EventsPanel,
    Finding,
    NumberPanel,
    Panel,
    ReportingSource,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    TablePanel,
)
from almenara_prometheus.settings import PrometheusSettings


@almenara.hookimpl
def almenara_settings() -> type[PrometheusSettings]:
    return PrometheusSettings


@almenara.hookimpl
def almenara_sources(settings: PrometheusSettings, context: Context) -> Sequence[ReportingSource]:
    from almenara_prometheus.source import PrometheusSource

    return [PrometheusSource(settings, context)] if settings.targets else []


@almenara.hookimpl
async def almenara_diagnose(settings: PrometheusSettings) -> Sequence[Finding]:
    from almenara_prometheus.source import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_panels(settings: PrometheusSettings) -> Sequence[Panel]:
    if not settings.targets:
        return []
    vllm = any("vllm" in target.presets for target in settings.targets)
    return [
        TablePanel(
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
                Column(title="Why", path="state.reason"),
            ],
            filters=["name", "status", "text"],
            width=12,
        ),
        *(_vllm() if vllm else ()),
        EventsPanel(
            name="changes",
            title="Changes of targets",
            query=EventQuery(filter={"type": "prometheus.target.*"}, limit=20),
            width=12,
            empty="No target has come or gone.",
        ),
    ]  # fmt: skip


def _vllm() -> Sequence[Panel]:
    def number(name: str, title: str, metric: str, **more: object) -> Panel:
        query = SampleQuery(kind="vllm.model", metric=metric, combine=more.pop("combine", "sum"))  # type: ignore[arg-type]
        return NumberPanel(name=name, title=title, query=query, width=3, **more)  # type: ignore[arg-type]

    return [
        number("vllm_running", "Requests running", "running"),
        number("vllm_waiting", "Requests waiting", "waiting"),
        number("vllm_tokens", "Tokens per second", "generated_tokens"),
        number("vllm_cache", "KV cache in use", "kv_cache", combine="max", format="percent"),
        SeriesPanel(
            name="vllm_first_token",
            title="Time to first token, p95",
            query=SampleQuery(kind="vllm.model", metric="first_token_p95"),
            format="seconds",
            width=6,
        ),
        SeriesPanel(
            name="vllm_between_tokens",
            title="Time between tokens, p95",
            query=SampleQuery(kind="vllm.model", metric="between_tokens_p95"),
            format="seconds",
            width=6,
        ),
        TablePanel(
            name="vllm_models",
            title="Models",
            query=ResourceQuery(kind="vllm.model"),
            columns=[
                Column(title="Model", path="name"),
                Column(title="Target", path="namespace"),
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
