"""The panels of streams and their consumers: what is stored, delivered and left behind."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from almenara.hookspecs import (
    ChartStyle,
    DataView,
    Format,
    Page,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    TemplatePanel,
)
from almenara.sdk import now
from almenara.signals import Resource, Severity, format_time
from almenara.units import MINUTE, SECOND
from almenara_nats.kinds import BUS, CONSUMER, STALE_STATUSES, STALLED, STREAM

MAX_RESOURCES: Final = 10_000
MAX_ROWS: Final = 200
"""Streams that are listed: those that need attention first, then by name."""
STREAMS: Final = ResourceQuery(kind=STREAM, limit=MAX_RESOURCES)
QUERY: Final = ResourceQuery(kind="nats.*")
"""Streams and consumers: the row of a stream shows both."""
REFRESH: Final = 10.0
CHARTS: Final[Sequence[tuple[str, str, str, str, Format, ChartStyle]]] = (
    ("rates", "Messages per second by stream", STREAM, "rate", "number", "lines"),
    ("sizes", "Size of streams", STREAM, "bytes", "bytes", "stacked"),
    ("backlog", "Backlog by consumer", CONSUMER, "pending", "number", "lines"),
    ("ack-pending", "Unacknowledged by consumer", CONSUMER, "ack_pending", "number", "lines"),
    ("redelivered", "Redelivered by consumer", CONSUMER, "redelivered", "number", "lines"),
)
"""Name, title, kind and metric of each chart, and how it is displayed."""
CONSUMER_COLUMNS: Final = "status,Pending=sample.pending,Unacknowledged=sample.ack_pending"
"""The columns of the table of consumers: its figures add up to the backlog of a stream."""


USE_COLUMNS: Final = "status,Stores=state.used_as,Messages=sample.messages"
FIGURE_COLUMNS: Final = "status,Messages=sample.messages,Size=sample.bytes:bytes"


def panels() -> Sequence[Panel]:
    """The panels of the plugin."""
    return [
        TemplatePanel(
            name="streams",
            title="Streams",
            query=QUERY,
            template="streams.html",
            prepare=prepare_streams,
            refresh=REFRESH,
            width=12,
            empty="No streams yet.",
            on_overview=True,
        ),
        *(
            SeriesPanel(
                name=name, title=title, query=SampleQuery(kind=kind, metric=metric),
                format=value_format, style=style, width=6,
            )
            for name, title, kind, metric, value_format, style in CHARTS
        ),
    ]  # fmt: skip


def pages() -> Sequence[Page]:
    """The pages of the plugin."""
    return [Page(name="main", title="NATS", navigation=True,
             panels=["streams", *(name for name, *_ in CHARTS)])]  # fmt: skip


def link_to_events(**filters: str) -> str:
    """The address of the events that match these filters."""
    return f"/events?{urlencode(filters)}"


def link_to_consumers(stream: str) -> str:
    """The address of the table of the consumers of a stream, with what each has to do."""
    filters = {"kind": CONSUMER, "namespace": stream, "columns": CONSUMER_COLUMNS}
    return f"/panels/table?{urlencode(filters)}"


async def prepare_streams(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The rows of the streams, by name."""
    consumers: dict[str, list[Resource]] = {}
    all_consumers = data.resources(ResourceQuery(kind=CONSUMER, limit=MAX_RESOURCES))
    streams = data.resources(STREAMS)
    for consumer in all_consumers:
        consumers.setdefault(consumer.namespace, []).append(consumer)
    # On full ten seconds, so that the links stay the same between two frames.
    minute_ago = (now() - MINUTE) // (10 * SECOND) * 10 * SECOND
    # Those that store no events are listed only where they need attention.
    listed = [
        stream
        for stream in streams
        if "used_as" not in stream.state or stream.severity > Severity.INFO
    ]
    rows = choose_rows(listed, consumers)
    visible = [each for stream in rows for each in consumers.get(stream.name, ())]
    await data.prefetch(visible, ("pending", "ack_pending"))
    await data.prefetch(rows, ("rate", "messages", "bytes"))
    stalled = sum(each.status == STALLED for group in consumers.values() for each in group)
    return {
        "stalled": stalled,
        "stalled_link": link_to_events(type=f"{CONSUMER}.{STALLED}"),
        "rows": [
            describe_stream(data, stream, consumers.get(stream.name, ()), minute_ago)
            for stream in rows
        ],
        "more": len(listed) - len(rows),
        "more_link": f"/panels/table?{urlencode({'kind': STREAM, 'columns': FIGURE_COLUMNS})}",
        "hidden": describe_hidden(stream for stream in streams if stream not in listed),
        "hidden_link": f"/panels/table?{urlencode({'kind': STREAM, 'columns': USE_COLUMNS})}",
    }


def choose_rows(
    streams: Sequence[Resource], consumers: Mapping[str, Sequence[Resource]]
) -> Sequence[Resource]:
    """The streams that are listed, by name; of too many, those that need attention."""
    if len(streams) <= MAX_ROWS:
        return streams

    def severity_of(stream: Resource) -> int:
        return max(each.severity for each in (stream, *consumers.get(stream.name, ())))

    # Those of one severity stay in the order of their names.
    worst = sorted(streams, key=severity_of, reverse=True)[:MAX_ROWS]
    return sorted(worst, key=lambda stream: stream.name)


def describe_hidden(streams: Iterable[Resource]) -> str:
    """How many streams that store no events are not listed, by what they store."""
    counts = Counter(str(stream.state["used_as"]) for stream in streams)
    return ", ".join(
        f"{number} {use}{'' if number == 1 else 'es' if use == BUS else 's'}"
        for use, number in sorted(counts.items())
    )


def describe_stream(
    data: DataView, stream: Resource, consumers: Sequence[Resource], minute_ago: int
) -> dict[str, Any]:
    """The row of a stream. Its status is that of its failing consumers, where there are any.

    Of a stream that no server answers about, the last known figures are shown as such, and no rate.
    """
    origin = f"nats/{stream.name}"
    since = format_time(minute_ago).replace(".000000Z", "Z")
    is_stale = stream.status in STALE_STATUSES
    failing = [consumer for consumer in consumers if consumer.severity > stream.severity]
    stalls = [each.state["since"] for each in failing if each.status == STALLED]
    pending = [
        value
        for consumer in consumers
        for metric in ("pending", "ack_pending")
        if (value := data.latest(consumer, metric)) is not None
    ]
    rate = None if is_stale else data.latest(stream, "rate")
    backlog = sum(pending) if pending else None
    return {
        "name": stream.name,
        "is_stale": is_stale,
        "since": stream.state.get("stale_since") if is_stale else min(stalls, default=None),
        "reason": str(stream.state.get("reason", "")) if is_stale else "",
        "status": ", ".join(f"{each.name} {each.status}" for each in failing) or stream.status,
        "severity": max((each.severity for each in failing), default=stream.severity).name,
        "rate": rate,
        "rates": [] if is_stale else [value for _, value in data.series(stream, "rate")],
        "messages": data.latest(stream, "messages"),
        "bytes": data.latest(stream, "bytes"),
        "backlog": backlog,
        "is_backlog_high": not is_stale
        and backlog is not None
        and backlog > 100 + 10 * (rate or 0),
        "consumers": len(consumers),
        "link": link_to_events(origin=origin),
        "recent": link_to_events(origin=origin, since=since),
        "recent_errors": link_to_events(origin=origin, severity="ERROR", since=since),
        "backlog_link": link_to_consumers(stream.name),
    }
