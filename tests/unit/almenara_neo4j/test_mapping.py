"""Answers of servers as resources, samples and events; whatever they contain."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara.bus.validation import check_batch
from almenara.sdk import Changes
from almenara.sdk.servers import Address
from almenara.signals import Resource, Severity
from almenara_neo4j.cypher import mask_query
from almenara_neo4j.mapping import (
    find_transitions,
    make_checkpoint_event,
    map_database,
    map_queries,
    map_server,
    measure_database,
    measure_transactions,
    name_databases,
)
from almenara_neo4j.metrics import read_metrics
from almenara_neo4j.settings import URLS, DeploymentSettings, Neo4jSettings

COLUMNS = (
    "name", "versions", "edition", "role", "currentStatus", "requestedStatus", "statusMessage",
    "error", "address", "type", "access", "writer", "lastStartTime", "replicationLag",
    "lastCommittedTxn", "transactionId", "currentQuery", "startTime", "status", "elapsedTime",
    "activeLockCount", "username", "clientAddress", "metaData", "database",
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["online", "offline", "Blocked by: [x]", "Neo4j Kernel", "2026-13-01"]),
    st.lists(st.text(max_size=5), max_size=2), st.dictionaries(st.text(max_size=5), st.text()),
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES), max_size=3)


@given(ROWS, ROWS)
def test_any_answer_becomes_valid_signals(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    signals: list[Any] = []
    states: list[list[Resource]] = []
    for rows in (first, second):
        queries, samples = map_queries("lab", "a:1", rows, after=0.0, shows_text=True)
        databases = [map_database("lab", name, row) for name, row in name_databases(rows)]
        states.append([map_server("lab", "a:1", rows, 5), *queries, *databases])
        signals += [*states[-1], *samples]
        for name, row in name_databases(rows):
            signals += measure_database("lab", name, row, (1.0, 1.0), 2.0)[0]
        assert len(measure_transactions(rows)) == 4
    for before in (None, *states[0]):
        for after in (None, *states[1]):
            if before is None or after is None or before.kind == after.kind:
                signals += find_transitions(Changes(before=before, after=after))
    check_batch(signals)


@given(st.lists(st.text(max_size=15), max_size=4), st.text(max_size=20))
def test_masked_query_is_bounded_and_on_one_line(parts: list[str], tail: str) -> None:
    masked = mask_query("'".join(parts) + tail)
    assert "\n" not in masked
    assert len(masked) <= 501


@given(st.text(max_size=20), st.sampled_from("'\""))
def test_literals_are_masked(text: str, quote: str) -> None:
    literal = "Zq9" + text.replace("\\", "\\\\").replace(quote, "\\" + quote)
    masked = mask_query(f"MATCH (n) WHERE n.name = {quote}{literal}{quote} RETURN n.age")
    assert masked == "MATCH (n) WHERE n.name = ? RETURN n.age"


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("RETURN 'open \\", "RETURN ?"),
        ("RETURN 1.5e-3, 0x1F, -3, .5 // note 'x'", "RETURN ?, ?, -?, ?"),
        ("MATCH (a1:`My '5' Label` {p2: $value}) /* 'x'\n */ RETURN a1[0..5]",
         "MATCH (a1:`My '5' Label` {p2: $value}) RETURN a1[?]"),
        ("", ""),
    ],
)  # fmt: skip
def test_names_and_parameters_stay(query: str, masked: str) -> None:
    assert mask_query(query) == masked


def database(status: str, requested: str = "online", role: str = "primary") -> Resource:
    row = {"name": "a", "currentStatus": status, "requestedStatus": requested, "role": role}
    return map_database("lab", "a", row)


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (database("online"), database("offline"), ["neo4j.database.offline"]),
        (database("offline"), database("online"), ["neo4j.database.online"]),
        (database("offline"), database("starting"), []),
        (database("online"), database("online", role="secondary"),
         ["neo4j.database.role_changed"]),
        (database("unknown"), database("online"), []),
    ],
)  # fmt: skip
def test_database_has_events(before: Resource, after: Resource, events: list[str]) -> None:
    matches = find_transitions(Changes(before=before, after=after))
    assert [event.type for event in matches] == events


def test_database_stopped_on_request_is_a_warning() -> None:
    assert database("offline", "offline").severity is Severity.WARN
    assert database("offline", "online").severity is Severity.ERROR
    assert "requested: online" in database("offline", "online").state["reason"]


def test_databases_of_a_cluster_are_named_by_their_server() -> None:
    rows = [
        {"name": "a", "address": "one:7687"}, {"name": "a", "address": "two:7687"},
        {"name": "b", "address": "one:7687"},
    ]  # fmt: skip
    assert [name for name, _ in name_databases(rows)] == ["a@one:7687", "a@two:7687", "b"]


@pytest.mark.parametrize("middle", ["dbms.", ""])
def test_enterprise_metrics_are_read_with_and_without_namespaces(middle: str) -> None:
    prefix = "neo4j.metrics:name=neo4j."
    owner = "database." if middle else ""
    rows = [
        {"name": f"{prefix}{middle}page_cache.hit_ratio", "value": 0.9},
        {"name": f"{prefix}{owner}my.db.store.size.total", "value": 5_000},
        {"name": f"{prefix}{owner}my.db.check_point.duration", "value": 1_500},
        {"name": f"{prefix}{owner}other.check_point.events", "value": 1},
        {"name": f"{prefix}{middle}page_cache.usage_ratio", "value": None},
    ]
    assert list(read_metrics(rows, ["db", "my.db"])) == [
        ("", "page_cache_hit_rate", 0.9, ""),
        ("my.db", "store_size", 5_000.0, "By"),
        ("my.db", "checkpoint_duration", 1.5, "s"),
    ]


def test_checkpoint_event_has_its_duration() -> None:
    event = make_checkpoint_event(database("online"), 3, 1.5)
    assert (event.type, event.data["reason"]) == (
        "neo4j.database.checkpoint", "a checkpoint was written in 1.5 s",
    )  # fmt: skip
    check_batch([event])


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("bolt://a", Address("a", 7687)),
        ("neo4j+s://[::1]:99", Address("::1", 99)),
    ],
)
def test_url_is_parsed(url: str, address: Address) -> None:
    assert URLS.parse(url) == address


@pytest.mark.parametrize(
    "url", ["a:7687", "http://a", "bolt://", "bolt://u:p@a", "bolt://a/db", "bolt+ssc://a"]
)
def test_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        URLS.parse(url)


def test_error_of_a_url_does_not_repeat_it() -> None:
    for url in ("bolt://user:s3cr3t", "bolt://[::1/s3cr3t", "bolt://a:s3cr3t@b", "s3cr3t://a"):
        with pytest.raises(ValueError) as problem:
            URLS.parse(url)
        assert "s3cr3t" not in str(problem.value)


def test_deployments_have_unique_names() -> None:
    same = [DeploymentSettings(name="a", urls=["bolt://a"]) for _ in range(2)]
    with pytest.raises(ValueError, match="unique"):
        Neo4jSettings(deployments=same)
