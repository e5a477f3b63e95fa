"""Java management beans as samples: the heap everywhere, and the metrics of the Enterprise Edition.

Enterprise metrics are beans `neo4j.metrics:name=<prefix>.dbms.<metric>` or
`…<prefix>.database.<database>.<metric>`; 4.4 leaves out `dbms` and `database` by default
(https://neo4j.com/docs/operations-manual/current/monitoring/metrics/reference/).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

STARTED: Final = (
    "CALL dbms.queryJmx('java.lang:type=Runtime') YIELD attributes"
    " RETURN attributes.StartTime.value AS started"
)
"""Only one attribute: the others have the arguments of the process, and what is secret in them."""
HEAP: Final = (
    "CALL dbms.queryJmx('java.lang:type=Memory') YIELD attributes"
    " RETURN attributes.HeapMemoryUsage.value.properties.used AS used,"
    " attributes.HeapMemoryUsage.value.properties.max AS max"
)
METRICS: Final = (
    "CALL dbms.queryJmx('neo4j.metrics:*') YIELD name, attributes"
    " RETURN name, coalesce(attributes.Value.value, attributes.Count.value) AS value"
)
"""Not narrowed to the names below: the database `system` has no WITH and no WHERE here."""
SERVER_METRICS: Final = {
    "page_cache.hit_ratio": ("page_cache_hit_rate", ""),
    "page_cache.usage_ratio": ("page_cache_usage", ""),
    "bolt.connections_running": ("connections_running", ""),
    "bolt.connections_idle": ("connections_idle", ""),
}
"""Metric and unit of a sample of a server, by the end of the name of a bean."""
DATABASE_METRICS: Final = {
    "store.size.total": ("store_size", "By"),
    "check_point.events": ("checkpoints", ""),
    "check_point.duration": ("checkpoint_duration", "s"),
}
"""The same of a database."""
MILLISECONDS: Final = frozenset(("checkpoint_duration",))

Value = tuple[str, str, float, str]
"""Database (empty for the server), metric, value and unit."""


def read_metrics(rows: Iterable[Mapping[str, Any]], databases: Sequence[str]) -> Iterator[Value]:
    """The values in the answer to `METRICS`; beans of unknown databases are left out."""
    for row in rows:
        name, value = str(row.get("name", "")), read_number(row.get("value"))
        if value is None:
            continue
        name = name.partition("name=")[2] or name
        for suffix, (metric, unit) in SERVER_METRICS.items():
            if name.endswith(f".{suffix}"):
                yield "", metric, value, unit
        for suffix, (metric, unit) in DATABASE_METRICS.items():
            if not name.endswith(f".{suffix}"):
                continue
            head = name.removesuffix(f".{suffix}")
            owners = [each for each in databases if each and head.endswith(f".{each}")]
            if owners:
                divisor = 1000 if metric in MILLISECONDS else 1
                # The longest: a database may be called `a.b`, and another one `b`.
                yield max(owners, key=len), metric, value / divisor, unit


def read_number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value) if abs(value) < 2**1000 else float("inf")
    return number if abs(number) < float("inf") else None
