"""HTTP: checks of URLs as resources, samples, and events when they change."""

from collections.abc import Sequence

import almenara
from almenara.hookspecs import (
    Column,
    Context,
    EventQuery,
    EventsPanel,
    Finding,
    Panel,
    ReportingSource,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
)
from almenara_http.settings import HttpSettings


@almenara.hookimpl
def almenara_settings() -> type[HttpSettings]:
    return HttpSettings


@almenara.hookimpl
def almenara_sources(settings: HttpSettings, context: Context) -> Sequence[ReportingSource]:
    from almenara_http.source import HttpSource

    return [HttpSource(settings, context)] if settings.checks else []


@almenara.hookimpl
async def almenara_diagnose(settings: HttpSettings) -> Sequence[Finding]:
    from almenara_http.client import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_panels(settings: HttpSettings) -> Sequence[Panel]:
    if not settings.checks:
        return []
    checks = ResourceQuery(kind="http.check")
    return [
        StatusPanel(name="states", title="HTTP checks", query=checks, width=12),
        TablePanel(
            name="checks",
            title="Checks",
            query=checks,
            columns=[
                Column(title="Check", path="name"),
                Column(title="State", path="status", format="status"),
                Column(title="Code", path="state.code", format="number"),
                Column(title="Latency", path="sample.latency", format="seconds", spark="latency"),
                Column(title="Certificate", path="sample.tls_expires_in", format="seconds"),
                Column(title="Since", path="state.since", format="age"),
                Column(title="Why", path="state.reason"),
            ],
            filters=["name", "status", "text"],
            width=12,
        ),
        SeriesPanel(
            name="latency",
            title="Latency",
            query=SampleQuery(kind="http.check", metric="latency"),
            format="seconds",
            width=6,
        ),
        EventsPanel(
            name="changes",
            title="Changes",
            query=EventQuery(filter={"type": "http.check.*"}, limit=20),
            filters=["severity", "subject"],
            width=6,
            empty="No check has changed its state.",
        ),
    ]
