"""Scopes: history and live pages show the same, and a part can be delegated."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from almenara.bus import codec
from almenara.bus.schema import connect, migrate
from almenara.history.planner import scope_condition
from almenara.scope import EMPTY_SCOPE, FULL_SCOPE, Grant, Scope, build_scope
from almenara.signals import Event

NAMES = ("nats/A", "nats/B", "nats", "kubernetes", "kubernetes/x", "http", "almenara/access")
TYPES = ("planning.story.created", "planning.x", "agent.done")
SPACES = ("", "payments", "payments-eu", "search")
LABELS = ("", "app=web", "app=web,team=a", "team=a")

events = st.builds(
    lambda origin, kind, space, labels: Event(
        id="1", source="s", type=kind, time=0, origin=origin, data=None,
        attributes={k: v for k, v in (("namespace", space), ("labels", labels)) if v},
    ),
    st.sampled_from(NAMES), st.sampled_from(TYPES), st.sampled_from(SPACES),
    st.sampled_from(LABELS),
)  # fmt: skip


def up_to_two(*names: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(names), max_size=2).map(tuple)


grants = st.builds(
    Grant,
    sources=up_to_two("nats", "nats/A", "nats/*", "kubernetes", ">"),
    types=up_to_two("planning.>", "planning.*", "agent.done", "*"),
    namespaces=up_to_two("payments", "payments*", "*", "search"),
    labels=st.sampled_from([(), (("app", "web"),), (("app", "web"), ("team", "a"))]),
)
scopes = st.builds(
    build_scope,
    st.lists(grants, max_size=3),
    access_log=st.booleans(),
    guarded=up_to_two("kubernetes"),
    namespaces=up_to_two("", "payments", "search"),
)


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("scope") / "almenara.db"
    connection = connect(path, writable=True)
    migrate(connection, path)
    yield connection
    connection.close()


def is_visible_in_history(connection: sqlite3.Connection, scope: Scope, event: Event) -> bool:
    def number(text: str) -> int:
        connection.execute("INSERT OR IGNORE INTO names (text) VALUES (?)", (text,))
        (row,) = connection.execute("SELECT number FROM names WHERE text = ?", (text,)).fetchone()
        return int(row)

    normalized = codec.normalize(event, event.origin)
    assert isinstance(normalized, Event)
    connection.execute("DELETE FROM events")
    row = codec.event_row(1, normalized, number)
    connection.execute(f"INSERT INTO events VALUES ({','.join('?' * len(row))})", row)
    visible = scope_condition(connection, scope)
    if visible is None:
        return True
    statement = f"SELECT 1 FROM events e WHERE {visible.sql}"
    return bool(connection.execute(statement, visible.parameters).fetchall())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scope=scopes, event=events)
def test_scope_permits_what_history_shows(
    database: sqlite3.Connection, scope: Scope, event: Event
) -> None:
    assert is_visible_in_history(database, scope, event) is scope.permits(event)


@given(scopes, scopes, events)
def test_scope_covers_only_what_it_permits(one: Scope, other: Scope, event: Event) -> None:
    if one.covers(other) and other.permits(event):
        assert one.permits(event)
    if one.key == other.key:
        assert one.permits(event) is other.permits(event)


@given(scopes, grants, events)
def test_delegate_grants_the_request_and_nothing_hidden(
    scope: Scope, requested: Grant, event: Event
) -> None:
    delegated = build_scope(scope.delegate(requested), access_log=False)
    if delegated.permits(event):
        assert scope.permits(event)
        assert Scope(grants=(requested,), access_log=False).permits(event)
    if not scope.guarded and Grant() in scope.grants:
        assert requested in delegated.grants


def test_delegate_returns_requested_part() -> None:
    team = Grant(sources=("nats",), types=("planning.>",), namespaces=("payments-*",))
    scope = build_scope([team], access_log=True)
    assert scope.delegate(Grant()) == [team]
    part = Grant(sources=("nats/A",), types=("planning.x",), namespaces=("payments-eu",))
    assert scope.delegate(part) == [part]
    for beyond in (
        Grant(sources=("http",)), Grant(types=(">",)), Grant(types=("planning.x", "agent.done")),
        Grant(namespaces=("payments",)), Grant(sources=(">",)), Grant(types=("plan*",)),
    ):  # fmt: skip
        assert scope.delegate(beyond) == []
    mine = build_scope([Grant()], access_log=True, guarded=["kubernetes"], namespaces=["payments"])
    assert mine.delegate(Grant(sources=("nats",))) == [Grant(sources=("nats",))]
    mixed = ("kubernetes/eu", "nats")
    for beyond in (Grant(), Grant(sources=("kubernetes",)), Grant(sources=mixed),
                   Grant(namespaces=("payments",)), Grant(sources=("*",))):  # fmt: skip
        assert mine.delegate(beyond) == []


@given(events)
def test_full_scope_permits_all_and_empty_scope_nothing(event: Event) -> None:
    assert FULL_SCOPE.permits(event)
    assert not EMPTY_SCOPE.permits(event)
