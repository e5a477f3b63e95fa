import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.bus import codec
from almenara.config import ProxySettings, Secret
from almenara.history.queries import _visible
from almenara.scope import EMPTY_SCOPE, FULL_SCOPE, Grant, Scope, build_scope
from almenara.security.proxy_headers import Proxying
from almenara.security.request import Refused, RequestInfo
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


def several(*found: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(found), max_size=2).map(tuple)


grants = st.builds(
    Grant,
    sources=several("nats", "nats/A", "nats/*", "kubernetes", ">"),
    types=several("planning.>", "planning.*", "agent.done", "*"),
    namespaces=several("payments", "payments*", "*", "search"),
    labels=st.sampled_from([(), (("app", "web"),), (("app", "web"), ("team", "a"))]),
)
scopes = st.builds(
    build_scope,
    st.lists(grants, max_size=3),
    access_log=st.booleans(),
    guarded=several("kubernetes"),
    namespaces=several("", "payments", "search"),
)


def stored(event: Event) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE names (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);"
        "CREATE TABLE events (sequence, id, source, origin, type, subject, time, severity,"
        " correlation, attributes, problem, raw, data);"
    )
    import re

    connection.create_function("regexp", 2, lambda e, t: re.fullmatch(e, t, re.DOTALL) is not None)

    def number(text: str) -> int:
        connection.execute("INSERT OR IGNORE INTO names (text) VALUES (?)", (text,))
        (found,) = connection.execute("SELECT number FROM names WHERE text = ?", (text,)).fetchone()
        return int(found)

    settled = codec.normalize(event, event.origin)
    assert isinstance(settled, Event)
    row = codec.event_row(1, settled, number)
    connection.execute(f"INSERT INTO events VALUES ({','.join('?' * len(row))})", row)
    return connection


@given(scopes, events)
def test_the_history_and_the_live_pages_agree_on_what_a_scope_shows(
    scope: Scope, event: Event
) -> None:
    connection = stored(event)
    conditions, parameters = _visible(connection, scope)
    where = " AND ".join(conditions) or "1"
    found = connection.execute(f"SELECT 1 FROM events e WHERE {where}", parameters).fetchall()
    connection.close()
    assert bool(found) is scope.permits(event)


@given(scopes, scopes, events)
def test_what_covers_another_shows_all_that_it_shows(
    one: Scope, other: Scope, event: Event
) -> None:
    if one.covers(other) and other.permits(event):
        assert one.permits(event)
    if one.key == other.key:
        assert one.permits(event) is other.permits(event)


@given(scopes, grants, events)
def test_what_is_given_on_shows_what_was_wanted_and_nothing_that_the_giver_does_not_see(
    scope: Scope, wanted: Grant, event: Event
) -> None:
    given_on = build_scope(scope.delegate(wanted), access_log=False)
    if given_on.permits(event):
        assert scope.permits(event)
        assert Scope(grants=(wanted,), access_log=False).permits(event)
    if not scope.guarded and Grant() in scope.grants:
        assert wanted in given_on.grants


def test_a_part_of_what_somebody_sees_can_be_given_on() -> None:
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
def test_everything_shows_all_and_nothing_none(event: Event) -> None:
    assert FULL_SCOPE.permits(event)
    assert not EMPTY_SCOPE.permits(event)


SECRET = "of-the-proxy-and-nobody-else"
GOOD = {"x-forwarded-user": ["ada"], "x-forwarded-groups": ["sre,dev"],
        "x-almenara-proxy-secret": [SECRET]}  # fmt: skip
SPELLINGS = [
    "x_forwarded_user", "x-forwarded_user", "x_forwarded-user", "X_Forwarded_User",
    "x-forwarded-user ", "x_forwarded_groups", "x-forwarded_groups", "x_almenara_proxy_secret",
    "x-almenara_proxy-secret",
]  # fmt: skip


def asked(headers: dict[str, list[str]], trusted: bool = True) -> object:
    asking = RequestInfo(headers=headers, address="a", peer="p", secure=True, local=False)
    proxying = Proxying(ProxySettings(secret=Secret.of(SECRET)), certified=False)
    return proxying.person(asking, trusted=trusted)


def smuggled() -> list[tuple[dict[str, list[str]], bool]]:
    cases: list[tuple[dict[str, list[str]], bool]] = [(GOOD, False)]
    for name in SPELLINGS:
        for value in ("root", "", SECRET):
            cases.append(({**GOOD, name: [value]}, True))
            cases.append(({**GOOD, name: [value]}, False))
    cases.extend(({**GOOD, name: [*GOOD[name], "root"]}, True) for name in GOOD)
    wrong = ([], [""], ["wrong"], [SECRET[:-1]], [SECRET + "x"], [SECRET.upper()], ["\xff"])
    cases.extend(({**GOOD, "x-almenara-proxy-secret": it}, True) for it in wrong)
    users = ([""], [" "], ["a\nb"], ["a" * 201], ["\x00"])
    cases.extend(({**GOOD, "x-forwarded-user": it}, True) for it in users)
    return cases


def test_identity_headers_are_believed_of_the_proxy_alone() -> None:
    person = asked(GOOD)
    assert person is not None
    assert person.groups == ("dev", "sre")  # type: ignore[attr-defined]
    assert asked({}) is None
    cases = smuggled()
    assert len(cases) >= 50
    for headers, trusted in cases:
        with pytest.raises(Refused):
            asked(headers, trusted)
    print(f"{len(cases)} smuggled identities, 0 believed")
