"""Totals and histograms from the stored counts are those of a plain list of events."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from almenara.bus import retention
from almenara.bus.check import repair_database
from almenara.bus.counts import count_older
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.writer import Writer
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.history.counted import cover, plan_counts
from almenara.scope import FULL_SCOPE, Grant, Scope, build_scope
from almenara.signals import Event, Severity
from almenara.units import DAY, MINUTE, SECOND
from support.bus import make_event
from support.log import Log, answer, sleep_not, write

TIMES = (0, 1, 10 * SECOND, 10 * MINUTE, DAY, -DAY, 3 * DAY + 7 * SECOND, -(2**63) + 1, 2**63 - 1)
ORIGINS, TYPES, NAMESPACES = ("nats/A", "nats/B", "k8s"), ("a.x", "a.y", "b"), ("", "shop", "east")
SCOPES: tuple[Scope, ...] = (
    FULL_SCOPE,
    build_scope([Grant(sources=("nats",))], access_log=False),
    build_scope([Grant(types=("a.*",)), Grant(namespaces=("shop",))], access_log=False),
    build_scope([Grant()], access_log=True, guarded=("k8s",), namespaces=("", "east")),
    build_scope([Grant(labels=(("app", "web"),))], access_log=False),
)

times = st.builds(
    lambda base, offset: max(-(2**63) + 1, min(base + offset, 2**63 - 1)),
    st.sampled_from(TIMES),
    st.integers(-25 * SECOND, 25 * SECOND),
)
events = st.lists(
    st.builds(
        lambda number, **fields: make_event(number, **fields),
        st.integers(0, 60),
        time=times,
        origin=st.sampled_from(ORIGINS),
        type=st.sampled_from(TYPES),
        severity=st.sampled_from((Severity.INFO, Severity.WARN, Severity.ERROR)),
        attributes=st.sampled_from(NAMESPACES).map(
            lambda name: {"namespace": name, "labels": "app=web"} if name else {}
        ),
    ),
    max_size=40,
)
filters = st.builds(
    Filter,
    origin=st.sampled_from((None, "nats/*", "nats/A", "none")),
    type=st.sampled_from((None, "a.*", "a.x", "b", ">")),
    severity=st.sampled_from((None, Severity.WARN, Severity.ERROR)),
    source=st.sampled_from((None, None, "test")),
    since=st.none() | times,
    until=st.none() | times,
)
widths = st.sampled_from((SECOND, 10 * SECOND, 30 * SECOND, 20 * MINUTE, DAY, 3 * DAY))


def forget_counts(connection: sqlite3.Connection) -> None:
    """Leave the events uncounted, as a database of a former version is."""
    connection.execute("DELETE FROM event_counts")
    connection.execute("UPDATE position SET uncounted_through = last_sequence")


@settings(max_examples=60, deadline=None)
@given(
    events,
    events,
    st.booleans(),
    st.integers(0, 30),
    st.lists(filters, max_size=6),
    widths,
    st.sampled_from((3, 5, 7, 100)),
)
def test_counts_are_those_of_a_list(
    first: list[Event],
    second: list[Event],
    is_migrated: bool,
    removed: int,
    chosen: list[Filter],
    width: int,
    max_names: int,
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("almenara.history.queries.sleep", sleep_not),
    ):
        storage = StorageSettings(dir=Path(folder), max_names=max_names)
        writer = Writer(Path(folder) / "almenara.db", storage)
        with closing(writer.connection):
            stored = write(writer, first)
            if is_migrated:
                forget_counts(writer.connection)
            stored += write(writer, second)
            if removed:
                step = msgspec.structs.replace(storage, retention_size=1, retention_batch=removed)
                retention.remove_step(writer.connection, step, writer.clock.advance())
                remaining = sorted(set(range(1, len(stored) + 1)) - set(range(1, removed + 1)))
                # Then every third of the rest, as a rule of retention would.
                retention.remove_events(writer.connection, remaining[::3])
                stored = [event for place, event in enumerate(stored[removed:]) if place % 3]
            check_counts(writer.connection, stored, chosen, width)
            while count_older(writer.connection):
                pass
            check_counts(writer.connection, stored, chosen, width)
            check_stored_counts(writer.connection, len(stored))


def check_counts(
    connection: sqlite3.Connection, stored: list[Event], filters: list[Filter], width: int
) -> None:
    for scope in SCOPES:
        history = History(Log(connection)).within(scope)
        visible = [event for event in stored if scope.permits(event)]
        assert answer(history.count_stored()) == len(visible)
        for chosen in (Filter(), *filters):
            matches = [event for event in visible if chosen.matches(event)]
            assert answer(history.count(chosen)) == len(matches)
            assert answer(history.count(chosen, limit=2)) == min(2, len(matches))
            expected: dict[int, list[bool]] = {}
            for event in matches:
                if -4 * DAY <= event.time < 4 * DAY:
                    is_failure = event.severity >= Severity.ERROR
                    expected.setdefault(event.time // width * width, []).append(is_failure)
            assert answer(history.buckets(chosen, since=-4 * DAY, until=4 * DAY, width=width)) == [
                (start, len(each), sum(each)) for start, each in sorted(expected.items())
            ]


def check_stored_counts(connection: sqlite3.Connection, events: int) -> None:
    """Each level counts each event once by its names, and once in all."""
    rows = connection.execute(
        "SELECT level, type = 0, sum(events) FROM event_counts GROUP BY 1, 2"
    ).fetchall()
    assert rows == ([(level, is_total, events) for level in range(3) for is_total in (0, 1)]
                    if events else [])  # fmt: skip
    assert connection.execute("SELECT min(events) FROM event_counts").fetchone() in ((None,), *(
        (number,) for number in range(1, events + 1)
    ))  # fmt: skip


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(0, 2))
def test_cover_has_each_slot_once(low: int, slots: int, level: int) -> None:
    cursor = low
    for used, first, end in cover(low, low + slots, level):
        unit = (1, 60, 8640)[used]
        assert used <= level
        assert first * unit == cursor
        assert end > first
        cursor = end * unit
    assert cursor == low + slots


@pytest.mark.parametrize("scope", SCOPES[:4])
def test_counts_answer_names_severity_and_time_without_events(tmp_path: Path, scope: Scope) -> None:
    writer = Writer(tmp_path / "almenara.db", StorageSettings(dir=tmp_path))
    with closing(writer.connection) as connection:
        write(writer, [make_event(1, origin="nats/A", type="a.x", time=5)])
        for chosen in (Filter(), Filter(type="a.*", severity=Severity.ERROR, since=0, until=DAY)):
            plan = plan_counts(connection, chosen, scope, MINUTE)
            assert plan is not None
            assert plan.ends == []
        for chosen in (Filter(text="x"), Filter(correlation="x"), Filter(subject="x")):
            assert plan_counts(connection, chosen, scope) is None
        forget_counts(connection)
        assert plan_counts(connection, Filter(), scope) is None


def test_repair_leaves_events_to_be_counted_again(tmp_path: Path) -> None:
    async def fill_and_repair() -> int:
        async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
            await bus.publish([make_event(number) for number in range(20)], "x")
        repair_database(tmp_path)
        async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
            await bus.publish([make_event(20)], "x")
            return await History(bus).count(Filter(type="t"))

    assert asyncio.run(fill_and_repair()) == 21


def test_counts_answer_for_names_from_before_the_limit(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, max_names=4)
    writer = Writer(tmp_path / "almenara.db", settings)
    with closing(writer.connection):
        write(writer, [make_event(1, origin="nats/A", type="a.x")])
        write(writer, [make_event(2, origin="nats/A", type="a.y")])
        write(writer, [make_event(3, origin="nats/A", type="late")])
        write(writer, [make_event(4, origin="nats/late", type="a.x")])
        for chosen, expected in (
            (Filter(type="a.x"), 2), (Filter(origin="nats/A"), 3),
            (Filter(origin="nats/A", type="a.x"), 1), (Filter(type="late"), 1),
        ):  # fmt: skip
            assert answer(History(Log(writer.connection)).count(chosen)) == expected
            is_counted = plan_counts(writer.connection, chosen, FULL_SCOPE) is not None
            assert is_counted == (chosen.type != "late")
