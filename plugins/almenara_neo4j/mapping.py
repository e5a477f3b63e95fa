"""Servers, databases and long queries as resources and samples, and the events of transitions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import ResourceKey
from almenara.sdk import Changes
from almenara.signals import Event, Resource, Sample, Severity, parse_time
from almenara.units import SECOND
from almenara_neo4j.cypher import mask_query
from almenara_neo4j.kinds import (
    BLOCKED,
    CHANGING,
    DATABASE,
    OK,
    ONLINE,
    QUERY,
    RUNNING,
    SERVER,
    UNKNOWN,
    UNREACHABLE,
    severity_of,
)
from almenara_neo4j.metrics import read_number

MAX_QUERIES: Final = 100
"""Long queries of a server that are shown: those that have been running longest."""
START_TOLERANCE: Final = SECOND

Row = Mapping[str, Any]


def drop_empty(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without what is unknown."""
    return {key: value for key, value in state.items() if value not in (None, "", [])}


def map_server(deployment: str, name: str, components: Sequence[Row], started: int) -> Resource:
    """The resource of a server that has answered; `started` is 0 where that is unknown."""
    kernel = next((row for row in components if row.get("name") == "Neo4j Kernel"), {})
    versions = kernel.get("versions")
    state = {
        "version": str(versions[0])[:50] if isinstance(versions, list) and versions else "",
        "edition": str(kernel.get("edition", ""))[:50],
        "started": started or None,
    }
    return Resource(
        kind=SERVER, namespace=deployment, name=name, status=OK, severity=severity_of(OK),
        state=drop_empty(state),
    )  # fmt: skip


# Databases


def name_databases(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The rows of SHOW DATABASES with the names of their resources.

    A database of a cluster has a row for each server that hosts it, which is part of the name then.
    """
    names = [str(row.get("name", ""))[:200] for row in rows]
    return [
        (f"{name}@{row.get('address') or '?'}" if names.count(name) > 1 else name, row)
        for name, row in zip(names, rows, strict=True)
        if name
    ]


def map_database(deployment: str, name: str, row: Row) -> Resource:
    """The resource of a row of SHOW DATABASES, of 4.4 or later."""
    status = str(row.get("currentStatus") or UNKNOWN)[:50]
    requested = str(row.get("requestedStatus") or "")[:50]
    severity = severity_of(status)
    reason = str(row.get("statusMessage") or row.get("error") or "")[:500]
    if status != ONLINE and status == requested:
        # Stopped by an administrator.
        severity = Severity.WARN
        reason = reason or f"{status}, as requested"
    elif status != ONLINE and requested:
        reason = reason or f"{status}, requested: {requested}"
    state = {
        "database": str(row.get("name", "")),
        "role": str(row.get("role") or ""),
        "address": str(row.get("address") or ""),
        "type": str(row.get("type") or ""),
        "access": str(row.get("access") or ""),
        "writer": row.get("writer") if isinstance(row.get("writer"), bool) else None,
        "requested": requested,
        "started": read_time(row.get("lastStartTime")),
        "reason": reason,
    }
    return Resource(
        kind=DATABASE, namespace=deployment, name=name, status=status, severity=severity,
        state=drop_empty(state),
    )  # fmt: skip


def read_time(value: Any) -> int | None:
    """Microseconds since the epoch of a time, which servers send as such or as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return parse_time(str(value)) if value else None
    except ValueError:
        return None


def measure_database(
    deployment: str, name: str, row: Row, before: tuple[float, float] | None, at: float
) -> tuple[list[Sample], tuple[float, float] | None]:
    """The samples of a row of SHOW DATABASES, and its transaction id with the time for the next
    rate; `before` is that of the last observation."""
    values: list[tuple[str, float, str]] = []
    # The lag is a negative number of transactions.
    if (lag := read_number(row.get("replicationLag"))) is not None:
        values.append(("replication_lag", abs(lag), ""))
    last = read_number(row.get("lastCommittedTxn"))
    if last is not None and before is not None and at > before[1] and last >= before[0]:
        values.append(("commits", (last - before[0]) / (at - before[1]), "1/s"))
    samples = [make_sample(DATABASE, deployment, name, *value) for value in values]
    return samples, None if last is None else (last, at)


def make_sample(
    kind: str, deployment: str, name: str, metric: str, value: float, unit: str = ""
) -> Sample:
    """A sample of a resource of a deployment."""
    return Sample(kind=kind, namespace=deployment, name=name, metric=metric, value=value, unit=unit)


# Transactions


def is_own(row: Row) -> bool:
    """Whether a transaction is one of Almenara's."""
    metadata = row.get("metaData")
    return isinstance(metadata, Mapping) and metadata.get("app") == "almenara"


def is_blocked(row: Row) -> bool:
    """Whether a transaction waits for a lock."""
    return str(row.get("status", "")).startswith("Blocked")


def measure_transactions(rows: Sequence[Row]) -> list[tuple[str, float, str]]:
    """Metric, value and unit of what the transactions of a server amount to."""
    others = [row for row in rows if not is_own(row)]
    elapsed = [read_number(row.get("elapsedTime")) or 0.0 for row in others]
    locks = [read_number(row.get("activeLockCount")) or 0.0 for row in others]
    return [
        ("transactions", len(others), ""),
        ("blocked_transactions", sum(map(is_blocked, others)), ""),
        ("longest_transaction", max(elapsed, default=0.0), "s"),
        ("locks", sum(locks), ""),
    ]


def name_query(transaction: str, server: str) -> str:
    """The name of the resource of a query: ids of transactions are unique on a server."""
    return f"{transaction[:200]}@{server}"


def is_on_server(key: ResourceKey, server: str) -> bool:
    """Whether the resource of a query, by its key, is one of a server."""
    return key[2].endswith(f"@{server}")


def map_queries(
    deployment: str, server: str, rows: Sequence[Row], *, after: float, shows_text: bool
) -> tuple[list[Resource], list[Sample]]:
    """The long queries of a server, and how long each has been running."""
    long = [
        (elapsed, row)
        for row in rows
        if not is_own(row)
        and row.get("transactionId")
        and (elapsed := read_number(row.get("elapsedTime")) or 0.0) >= after
    ]
    long.sort(key=lambda pair: -pair[0])
    resources, samples = [], []
    for elapsed, row in long[:MAX_QUERIES]:
        name = name_query(str(row["transactionId"]), server)
        status = BLOCKED if is_blocked(row) else RUNNING
        text = mask_query(str(row.get("currentQuery") or "")) if shows_text else ""
        state = {
            "query": text,
            "database": str(row.get("database") or "")[:200],
            "user": str(row.get("username") or "")[:200],
            "client": str(row.get("clientAddress") or "")[:200],
            "server": server,
            "started": read_time(row.get("startTime")),
            "reason": str(row.get("status"))[:300] if status == BLOCKED else "",
        }
        resources.append(
            Resource(
                kind=QUERY, namespace=deployment, name=name, status=status,
                severity=severity_of(status), state=drop_empty(state),
            )
        )  # fmt: skip
        samples.append(make_sample(QUERY, deployment, name, "elapsed", elapsed, "s"))
    return resources, samples


# Events


def find_transitions(change: Changes) -> Iterable[Event]:
    """The events of a change of a resource; ids are made from what distinguishes occurrences."""
    before, after = change.before, change.after
    resource = after or before
    if resource is None:
        return ()
    if resource.kind == QUERY:
        return _query_transitions(resource, before, after)
    if before is None or after is None:
        return ()
    return (_server_transitions if resource.kind == SERVER else _database_transitions)(
        before, after
    )


def _server_transitions(before: Resource, after: Resource) -> Iterator[Event]:
    old, new = before.state.get("started", 0), after.state.get("started", 0)
    if old and new and abs(new - old) > START_TOLERANCE and after.status != UNREACHABLE:
        yield _make_event(after, "restarted", Severity.WARN, "the process was restarted", new)
    if before.status == after.status:
        return
    if after.status == UNREACHABLE:
        reason = str(after.state.get("reason", ""))
        yield _make_event(after, UNREACHABLE, after.severity, reason, after.time)
    else:
        yield _make_event(
            after, "recovered", Severity.INFO, f"{after.status} after {before.status}", after.time
        )


def _database_transitions(before: Resource, after: Resource) -> Iterator[Event]:
    old, new = before.state.get("role", ""), after.state.get("role", "")
    if old and new and old != new and after.status != UNKNOWN:
        yield _make_event(
            after, "role_changed", Severity.WARN, f"{new}; it was {old} before", new, after.time
        )
    # Since Neo4j 5 a leader has the role of its followers, and takes the writes.
    if before.state.get("writer") is False and after.state.get("writer") is True:
        yield _make_event(
            after, "writer_changed", Severity.WARN, "writes go to this server now", after.time
        )
    # That nothing is known about a database is the event of its server.
    if UNKNOWN in (before.status, after.status) or before.status == after.status:
        return
    if after.status in CHANGING:
        return
    if after.status == ONLINE:
        kind, reason = ONLINE, f"online after {before.status}"
    else:
        kind, reason = after.status.replace(" ", "_"), str(after.state.get("reason", after.status))
    yield _make_event(after, kind, after.severity, reason, after.time)


def _query_transitions(
    resource: Resource, before: Resource | None, after: Resource | None
) -> Iterator[Event]:
    started = resource.state.get("started", "")
    query = str(resource.state.get("query") or "the query")
    if after is None:
        yield _make_event(resource, "finished", Severity.INFO, f"{query} ended", started)
        return
    if before is None:
        yield _make_event(after, "long", Severity.WARN, f"{query} is running for long", started)
    was_blocked = before is not None and before.status == BLOCKED
    if after.status == BLOCKED and not was_blocked:
        reason = f"{query} waits for a lock: {after.state.get('reason', '')}"
        yield _make_event(after, BLOCKED, Severity.WARN, reason, started, after.time)


def make_checkpoint_event(database: Resource, number: int, duration: float | None) -> Event:
    """The event of the newest checkpoint of a database, the `number`-th since its start."""
    reason = "a checkpoint was written"
    if duration is not None:
        reason += f" in {duration:.1f} s"
    return _make_event(
        database, "checkpoint", Severity.INFO, reason, database.state.get("started"), number
    )


def _make_event(
    resource: Resource, kind: str, severity: Severity, reason: str, *distinction: object
) -> Event:
    event_type = f"{resource.kind}.{kind}"
    shown = ("database", "role", "user", "client", "server", "query")
    return Event(
        id="/".join(
            map(str, (resource.namespace, resource.name, event_type, *distinction))
        ),
        source=f"neo4j/{resource.namespace}",
        type=event_type,
        subject=resource.name,
        time=resource.time,
        severity=severity,
        correlation=f"neo4j/{resource.namespace}",
        attributes={"namespace": resource.namespace},
        data={
            "reason": reason,
            **{name: resource.state[name] for name in shown if name in resource.state},
        },
    )  # fmt: skip
