"""Servers as resources and samples, and the events of their transitions."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from almenara.sdk import Changes
from almenara.signals import Event, Resource, Sample, Severity
from almenara.units import SECOND
from almenara_valkey.info import (
    Info,
    count_keys,
    list_errors,
    list_replicas,
    parse_fields,
    read_count,
    read_mode,
    read_number,
    read_primary,
    read_version,
)
from almenara_valkey.kinds import (
    CLIENTS_BLOCKED,
    CLUSTER_FAILED,
    DEPLOYMENT,
    EVICTING,
    FRAGMENTED,
    LINK_DOWN,
    LOADING,
    MEMORY_FULL,
    OK,
    PERSISTENCE_FAILING,
    SERVER,
    SEVERITIES,
    STREAM_GROUP,
    UNREACHABLE,
)

PRIMARY: Final = "primary"
REPLICA: Final = "replica"
GAUGES: Final = (
    ("memory", "used_memory", "By"),
    ("memory_peak", "used_memory_peak", "By"),
    ("clients", "connected_clients", ""),
    ("blocked_clients", "blocked_clients", ""),
    ("pubsub_channels", "pubsub_channels", ""),
    ("fragmentation", "mem_fragmentation_ratio", ""),
)
"""Metric, field of INFO and unit."""
RATES: Final = (
    ("operations", "total_commands_processed", "1/s"),
    ("evictions", "evicted_keys", "1/s"),
    ("expirations", "expired_keys", "1/s"),
    ("rejected_connections", "rejected_connections", "1/s"),
    ("received", "total_net_input_bytes", "By/s"),
    ("sent", "total_net_output_bytes", "By/s"),
)
FULL_SHARE: Final = 0.999
"""Share of the memory limit from which on memory is full; the accounting is not exact."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """From where on a server that answers has a problem."""

    fragmentation: float = 1.5
    fragmentation_bytes: int = 128 * 1024**2
    blocked_clients: int = 100


DEFAULT_THRESHOLDS: Final = Thresholds()


class Counters(msgspec.Struct):
    """The counters of one server at one time, for rates."""

    run_id: str
    at: float
    """Seconds on the monotonic clock."""
    info: Info


def read_role(info: Info) -> str:
    """`primary`, `replica` or `sentinel`."""
    if read_mode(info) == "sentinel":
        return "sentinel"
    return REPLICA if info.get("role") == "slave" else PRIMARY


def map_server(
    deployment: str,
    name: str,
    info: Info,
    started: int,
    is_evicting: bool,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Resource:
    """The resource of a server that has answered.

    Its state has what rarely changes; numbers that change all the time are samples.
    """
    status, reason = _judge(info, is_evicting, thresholds)
    role = read_role(info)
    primary = read_primary(info) if role == REPLICA else None
    limit = read_count(info, "maxmemory")
    state: dict[str, Any] = {
        "role": role,
        "mode": read_mode(info),
        "version": read_version(info),
        "run_id": info.get("run_id", ""),
        "replication_id": info.get("master_replid", ""),
        "started": started,
        "memory_limit": limit or None,
        "eviction_policy": info.get("maxmemory_policy", ""),
        "primary": str(primary) if primary is not None else "",
        "replicas": len(list_replicas(info)) if role == PRIMARY else None,
        "persistence": _describe_persistence(info),
        "reason": reason,
    }
    return Resource(
        kind=SERVER, namespace=deployment, name=name, status=status, severity=SEVERITIES[status],
        state={key: value for key, value in state.items() if value not in (None, "")},
    )  # fmt: skip


def _judge(info: Info, is_evicting: bool, thresholds: Thresholds) -> tuple[str, str]:
    """The status of a server and the reason; the worst that applies."""
    if info.get("loading") == "1":
        return LOADING, "is loading its data into memory"
    if info.get("cluster_state") == "fail":
        return CLUSTER_FAILED, "the cluster does not serve all slots"
    limit, used = read_count(info, "maxmemory"), read_count(info, "used_memory")
    if limit and used >= limit * FULL_SHARE and info.get("maxmemory_policy") == "noeviction":
        return MEMORY_FULL, "the memory limit is reached, and writes fail (noeviction)"
    if info.get("role") == "slave" and info.get("master_link_status") == "down":
        return LINK_DOWN, f"no connection to the primary {read_primary(info) or ''}".strip()
    failures = [
        text
        for field, text in (
            ("rdb_last_bgsave_status", "the last snapshot (RDB) failed"),
            ("aof_last_write_status", "the last write to the append-only file failed"),
            ("aof_last_bgrewrite_status", "the last rewrite of the append-only file failed"),
        )
        if info.get(field) == "err"
    ]
    if failures:
        return PERSISTENCE_FAILING, "; ".join(failures)
    if is_evicting:
        return EVICTING, f"evicts keys to stay below the memory limit ({_policy(info)})"
    ratio = read_number(info, "mem_fragmentation_ratio") or 0.0
    unused = read_count(info, "mem_fragmentation_bytes")
    if ratio >= thresholds.fragmentation and unused >= thresholds.fragmentation_bytes:
        return FRAGMENTED, "the process uses much more memory than its data (fragmentation)"
    if read_count(info, "blocked_clients") >= thresholds.blocked_clients:
        return CLIENTS_BLOCKED, f"{thresholds.blocked_clients} or more clients wait in commands"
    return OK, ""


def _policy(info: Info) -> str:
    return info.get("maxmemory_policy", "unknown policy")


def _describe_persistence(info: Info) -> str:
    if info.get("aof_enabled") == "1":
        return "append-only file"
    return "snapshots" if "rdb_last_bgsave_status" in info else ""


def make_samples(
    deployment: str, name: str, info: Info, before: Counters | None, at: float
) -> Iterator[Sample]:
    """The samples of a server: what it reports, and rates since it was last observed."""

    def make_sample(metric: str, value: float, unit: str = "") -> Sample:
        return Sample(
            kind=SERVER, namespace=deployment, name=name, metric=metric, value=value, unit=unit
        )

    for metric, field, unit in GAUGES:
        if (value := read_number(info, field)) is not None:
            yield make_sample(metric, value, unit)
    if read_mode(info) != "sentinel":
        yield make_sample("keys", count_keys(info))
        if limit := read_count(info, "maxmemory"):
            yield make_sample("memory_share", read_count(info, "used_memory") / limit)
    if (lag := _replication_lag(info)) is not None:
        yield make_sample("replication_lag", lag, "By")
    if before is None or before.run_id != info.get("run_id") or at <= before.at:
        return
    seconds = at - before.at
    for metric, field, unit in RATES:
        if (increase := _increase(before.info, info, field)) is not None:
            yield make_sample(metric, increase / seconds, unit)
    hits = _increase(before.info, info, "keyspace_hits")
    misses = _increase(before.info, info, "keyspace_misses")
    if hits is not None and misses is not None and hits + misses:
        yield make_sample("hit_rate", hits / (hits + misses))
    errors = sum(list_errors(info).values()) - sum(list_errors(before.info).values())
    if errors >= 0:
        yield make_sample("errors", errors / seconds, "1/s")


def _replication_lag(info: Info) -> float | None:
    """Bytes that a replica is behind, or that the slowest replica of a primary is."""
    offset = read_number(info, "master_repl_offset")
    if info.get("role") == "slave":
        if info.get("master_link_status", "up") != "up":
            # Without a connection, how far the primary is remains unknown.
            return None
        own = read_number(info, "slave_repl_offset")
        read = read_number(info, "slave_read_repl_offset")
        return max((read or own or 0) - (own or 0), 0) if own is not None else None
    acknowledged = [
        number
        for name, value in info.items()
        if name.startswith("slave") and "offset=" in value
        if (number := _read_acknowledged(value))
    ]
    return max(offset - min(acknowledged), 0) if offset is not None and acknowledged else None


def _read_acknowledged(value: str) -> float | None:
    """The offset that a replica has acknowledged; None or 0 while it loads the data of the primary,
    which is no lag."""
    fields = parse_fields(value)
    return read_number(fields, "offset") if fields.get("state", "online") == "online" else None


def _increase(before: Mapping[str, str], after: Mapping[str, str], field: str) -> float | None:
    """How much a counter grew; None where it is missing or was reset (CONFIG RESETSTAT)."""
    old, new = read_number(before, field), read_number(after, field)
    return new - old if old is not None and new is not None and new >= old else None


def is_evicting(before: Counters | None, info: Info) -> bool:
    """Whether keys were evicted since the server was last observed."""
    if before is None or before.run_id != info.get("run_id"):
        return False
    return bool(_increase(before.info, info, "evicted_keys"))


def find_transitions(change: Changes) -> Iterable[Event]:
    """The events of a change of a resource; ids are made from what distinguishes occurrences."""
    before, after = change.before, change.after
    if before is None or after is None:
        return
    if after.kind == SERVER:
        yield from _server_transitions(before, after)
    elif after.kind in (DEPLOYMENT, STREAM_GROUP) and before.status != after.status:
        is_new_problem = after.status != OK
        yield _make_event(
            after, f"{after.kind}.{_slug(after.status) if is_new_problem else 'recovered'}",
            after.severity, after.state.get("reason") or f"{after.status} after {before.status}",
            after.status, after.time,
        )  # fmt: skip


def _server_transitions(before: Resource, after: Resource) -> Iterator[Event]:
    old, new = before.state, after.state
    if old.get("run_id") != new.get("run_id") and after.status != UNREACHABLE:
        yield _make_event(
            after, f"{SERVER}.restarted", Severity.WARN, "the process was started again",
            new.get("run_id"),
        )  # fmt: skip
    if old.get("role") == REPLICA and new.get("role") == PRIMARY:
        # A promoted server has a new replication id, which no other promotion has.
        yield _make_event(
            after, f"{SERVER}.promoted", Severity.WARN,
            f"a replica of {old.get('primary', 'another server')} became the primary",
            new.get("replication_id"),
        )  # fmt: skip
    lost = (old.get("replicas") or 0) - (new.get("replicas") or 0)
    if lost > 0 and new.get("role") == PRIMARY and after.status != UNREACHABLE:
        yield _make_event(
            after, f"{SERVER}.replica_lost", Severity.WARN,
            f"{new.get('replicas') or 0} replicas are connected, {lost} fewer than before",
            new.get("run_id"), after.time,
        )  # fmt: skip
    if before.status == after.status:
        return
    if after.status == OK:
        yield _make_event(
            after, f"{SERVER}.recovered", Severity.INFO, f"ok after {before.status}",
            new.get("run_id"), after.time,
        )  # fmt: skip
    else:
        yield _make_event(
            after, f"{SERVER}.{_slug(after.status)}", after.severity,
            str(new.get("reason") or after.status), new.get("run_id"), after.time,
        )  # fmt: skip


def _slug(status: str) -> str:
    return status.replace(" ", "_")


def _make_event(
    resource: Resource, event_type: str, severity: Severity, reason: str, *distinction: object
) -> Event:
    subject = f"{resource.namespace}/{resource.name}" if resource.namespace else resource.name
    role = resource.state.get("role")
    return Event(
        id="/".join(map(str, (subject, event_type, *distinction))),
        source=f"valkey/{resource.namespace or resource.name}",
        type=event_type,
        subject=resource.name,
        time=resource.time,
        severity=severity,
        correlation=f"valkey/{resource.namespace or resource.name}",
        attributes={"namespace": resource.namespace} if resource.namespace else {},
        data={"reason": reason, **({"role": role} if role else {})},
    )


def started_at(info: Info, moment: int) -> int:
    """When a server was started, to the second; `moment` is the present in microseconds."""
    return moment - read_count(info, "uptime_in_seconds") * SECOND
