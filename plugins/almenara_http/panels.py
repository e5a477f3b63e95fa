"""The panels of the HTTP checks."""

from collections.abc import Sequence

from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
)
from almenara_http.settings import HttpSettings
from almenara_http.source import KIND


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
