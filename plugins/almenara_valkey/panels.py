"""The panels and the page of the plugin."""

from collections.abc import Mapping, Sequence
from typing import Final

from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    Filter,
    Format,
    Level,
    Marks,
    Page,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
)
from almenara.signals import Severity
from almenara_valkey.kinds import CHANNEL, COMMAND, DEPLOYMENT, KEY, SERVER, STREAM_GROUP
from almenara_valkey.settings import ValkeySettings

CHARTS: Final[Sequence[tuple[str, str, str, Format]]] = (
    ("operations", "Commands per second", "operations", "number"),
    ("hit-rate", "Hit rate", "hit_rate", "percent"),
    ("memory", "Memory", "memory", "bytes"),
    ("evictions", "Evicted keys per second", "evictions", "number"),
    ("errors", "Errors per second", "errors", "number"),
    ("keyspace", "Keys", "keys", "number"),
    ("clients", "Clients", "clients", "number"),
    ("blocked", "Clients that wait in a command", "blocked_clients", "number"),
    ("fragmentation", "Memory fragmentation ratio", "fragmentation", "number"),
    ("lag", "Replication lag", "replication_lag", "bytes"),
)
LEVELS: Final[Mapping[str, Sequence[Level]]] = {
    "memory": [Level(title="maxmemory", path="state.memory_limit", severity=Severity.WARN)],
}
MARKS: Final = (Marks(title="Changes of servers", filter={"type": "valkey.server.*"}),)


def list_panels(settings: ValkeySettings) -> Sequence[Panel]:
    """The panels."""
    deployment = make_deployment_filter(settings)
    filters = (deployment, "name", "status", "text")
    is_simulated = any(deployment.simulated for deployment in settings.deployments)
    simulated = [Column(title="Data", path="state.data")] if is_simulated else []
    panels: list[Panel] = [
        StatusPanel(
            name="deployments", title="Valkey and Redis",
            query=ResourceQuery(kind=DEPLOYMENT), width=12, on_overview=True,
        ),
        TablePanel(
            name="servers", title="Servers", width=12, filters=filters,
            query=ResourceQuery(kind=SERVER, limit=1_000),
            columns=[
                Column(title="Server", path="name"),
                Column(title="Deployment", path="namespace"),
                Column(title="Status", path="status", format="status"),
                *simulated,
                Column(title="Role", path="state.role"),
                Column(title="Memory", path="sample.memory", format="bytes", spark="memory"),
                Column(title="Limit", path="state.memory_limit", format="bytes"),
                Column(
                    title="Commands/s", path="sample.operations", format="number",
                    spark="operations",
                ),
                Column(title="Hit rate", path="sample.hit_rate", format="percent"),
                Column(title="Clients", path="sample.clients", format="number"),
                Column(title="Replication lag", path="sample.replication_lag", format="bytes"),
                Column(title="Version", path="state.version"),
                Column(title="Started", path="state.started", format="age"),
                Column(title="Message", path="state.reason"),
            ],
            empty="No server has answered yet.",
        ),
        *(
            SeriesPanel(
                name=name, title=title, query=SampleQuery(kind=SERVER, metric=metric),
                format=value_format, width=6, filters=(deployment, "name"), marks=MARKS,
                levels=LEVELS.get(name, ()),
            )
            for name, title, metric, value_format in CHARTS
        ),
        TablePanel(
            name="commands", title="Commands", width=6, filters=filters, sort="-sample.calls",
            query=ResourceQuery(kind=COMMAND), height=6,
            columns=[
                Column(title="Command", path="name"),
                Column(title="Deployment", path="namespace"),
                Column(title="Calls/s", path="sample.calls", format="number", spark="calls"),
                Column(title="Mean time", path="sample.duration", format="seconds"),
                Column(title="p99", path="sample.duration_p99", format="seconds"),
            ],
        ),
        EventsPanel(
            name="slow-commands", title="Slow and large commands", width=6, height=6,
            query=EventQuery(filter={"type": "valkey.*"}, limit=50),
            filters=["subject", "text"],
            empty="No command was slower, and none had a larger request or reply, than the server"
            " logs.",
        ),
        TablePanel(
            name="stream-groups", title="Consumer groups of streams", width=12, filters=filters,
            query=ResourceQuery(kind=STREAM_GROUP, limit=1_000),
            columns=[
                Column(title="Stream", path="state.stream"),
                Column(title="Group", path="state.group"),
                Column(title="Status", path="status", format="status"),
                Column(title="Consumers", path="state.consumers", format="number"),
                Column(title="Pending", path="sample.pending", format="number", spark="pending"),
                Column(title="Lag", path="sample.lag", format="number", spark="lag"),
                Column(title="Length", path="sample.length", format="number"),
                Column(title="Message", path="state.reason"),
            ],
            empty="No stream has a consumer group.",
        ),
        TablePanel(
            name="channels", title="Channels", width=12, filters=filters,
            query=ResourceQuery(kind=CHANNEL), sort="-sample.subscribers",
            columns=[
                Column(title="Channel", path="name"),
                Column(title="Deployment", path="namespace"),
                Column(
                    title="Subscribers", path="sample.subscribers", format="number",
                    spark="subscribers",
                ),
            ],
            empty="No client subscribes to a channel.",
        ),
        EventsPanel(
            name="changes", title="Changes of servers", width=12,
            query=EventQuery(filter={"type": "valkey.server.*"}, limit=20),
            filters=["severity", "subject"],
            empty="No server has changed its status.",
        ),
    ]  # fmt: skip
    if any(deployment.key_samples for deployment in settings.deployments):
        panels.append(
            TablePanel(
                name="keys", title="Largest sampled keys", width=6, filters=filters,
                query=ResourceQuery(kind=KEY), sort="-state.bytes",
                columns=[
                    Column(title="Key", path="name"),
                    Column(title="Size", path="state.bytes", format="bytes"),
                    Column(title="Server", path="state.server"),
                ],
                empty="No key was sampled yet.",
            )
        )  # fmt: skip
    return panels


def list_pages(settings: ValkeySettings) -> Sequence[Page]:
    """The page of the plugin."""
    names = [panel.name for panel in list_panels(settings)]
    return [
        Page(
            name="main", title="Valkey", panels=names, navigation=True,
            filters=[make_deployment_filter(settings), "name", "status", "text"],
        )
    ]  # fmt: skip


def make_deployment_filter(settings: ValkeySettings) -> Filter:
    """The filter of the deployment: a list of names."""
    names = tuple(deployment.name for deployment in settings.deployments)
    return Filter(name="namespace", label="Deployment", choices=names, hint="all")
