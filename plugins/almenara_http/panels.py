"""The panels of the HTTP checks."""

from collections.abc import Sequence
from typing import Final

from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    Level,
    Marks,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
)
from almenara.signals import Severity
from almenara_http.settings import HttpSettings
from almenara_http.source import KIND

CHANGES: Final = Marks(title="Status changes", filter={"type": f"{KIND}.*"})


def panels(settings: HttpSettings) -> Sequence[Panel]:
    """The panels."""
    checks = ResourceQuery(kind=KIND)
    return [
        StatusPanel(name="states", title="HTTP checks", query=checks, width=12),
        TablePanel(
            name="checks",
            title="Checks",
            query=checks,
            columns=[
                Column(title="Check", path="name"),
                Column(title="Status", path="status", format="status"),
                Column(title="Code", path="state.code", format="number"),
                Column(title="Latency", path="sample.latency", format="seconds", spark="latency"),
                Column(
                    title="Certificate expires in", path="sample.tls_expires_in", format="seconds"
                ),
                Column(title="Version", path="state.version"),
                Column(title="Redirects to", path="state.location"),
                Column(title="Since", path="state.since", format="age"),
                Column(title="Message", path="state.reason"),
            ],
            filters=["name", "status", "text"],
            width=12,
        ),
        SeriesPanel(
            name="latency",
            title="Latency",
            query=SampleQuery(kind=KIND, metric="latency"),
            format="seconds",
            filters=["name"],
            marks=[CHANGES],
            width=6,
        ),
        SeriesPanel(
            name="availability",
            title="Availability by day, 90 days (UTC)",
            query=SampleQuery(kind=KIND, metric="up", limit=30),
            format="percent",
            style="bars",
            levels=[
                Level(title="bad below", value=0.99, severity=Severity.ERROR, colors="below"),
                Level(title="degraded below", value=0.999, severity=Severity.WARN, colors="below"),
            ],
            filters=["name"],
            span=90 * 86_400,
            step=86_400,
            width=12,
        ),
        SeriesPanel(
            name="certificates",
            title="Certificates expire in",
            query=SampleQuery(kind=KIND, metric="tls_expires_in", function="min"),
            format="seconds",
            levels=[Level(title="14 days", value=14 * 86_400, severity=Severity.WARN)],
            filters=["name"],
            width=6,
        ),
        EventsPanel(
            name="changes",
            title="Status changes",
            query=EventQuery(filter={"type": f"{KIND}.*"}, limit=20),
            filters=["severity", "subject"],
            width=6,
            empty="No check has changed its status.",
        ),
    ]
