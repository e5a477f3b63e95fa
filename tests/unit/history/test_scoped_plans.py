"""A limited scope: neither answers nor the work for them depend on what is hidden."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from almenara.bus.codec import RowDecoder
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.schema import connect
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.scope import Grant, build_scope
from almenara.signals import Event, Severity
from support.bus import make_event

pytestmark = pytest.mark.anyio

T = TypeVar("T")
OPEN = build_scope([Grant(sources=("open",))], access_log=False)
VISIBLE, HIDDEN = 400, 8_000
QUERIES: dict[str, Callable[[History], Awaitable[Any]]] = {
    "newest": lambda each: each.events(Filter()),
    "older": lambda each: each.events(Filter(), before=300),
    "hidden type": lambda each: each.events(Filter(type="vault.bulk")),
    "missing type": lambda each: each.events(Filter(type="not.there")),
    "rare type": lambda each: each.events(Filter(type="open.rare")),
    "shared type": lambda each: each.events(Filter(type="shared")),
    "pattern of types": lambda each: each.events(Filter(type="vault.*")),
    "hidden origin": lambda each: each.events(Filter(origin="vault/x")),
    "visible origin": lambda each: each.events(Filter(origin="open/a")),
    "failures": lambda each: each.events(Filter(severity=Severity.ERROR)),
    "subject": lambda each: each.events(Filter(subject="s.*")),
    "missing subject": lambda each: each.events(Filter(subject="not.*")),
    "count": lambda each: each.count(Filter()),
    "count of a type": lambda each: each.count(Filter(type="vault.bulk")),
    "stored": lambda each: each.count_stored(),
    "types": lambda each: each.types(),
    "origins": lambda each: each.origins(),
}


class CountingLog:
    """Runs queries on one connection and counts the steps of SQLite's machine."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.decoder = RowDecoder()
        self.steps = 0
        self._connection = connection
        connection.set_progress_handler(self._count, 1)

    def _count(self) -> bool:
        self.steps += 1
        return False

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        return query(self._connection)


def visible_event(number: int) -> Event:
    kind = "open.rare" if number == 7 else "shared" if number % 3 else "open.usual"
    return make_event(
        number, id=f"v{number}", source="/s", origin=f"open/{'ab'[number % 2]}", type=kind,
        subject="s.x", severity=Severity.ERROR if number % 50 == 0 else Severity.INFO, time=number,
    )  # fmt: skip


def hidden_event(number: int) -> Event:
    return make_event(
        number, id=f"h{number}", source="/s", origin="vault/x", subject="s.x",
        type="shared" if number % 5 == 0 else "vault.bulk",
        severity=Severity.ERROR if number % 2 else Severity.INFO, time=number,
    )  # fmt: skip


@asynccontextmanager
async def open_log(folder: Path, hidden: int) -> AsyncIterator[CountingLog]:
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        await bus.publish([visible_event(number) for number in range(VISIBLE)], "open")
        for start in range(0, hidden, 1_000):
            await bus.publish([hidden_event(start + number) for number in range(1_000)], "vault")
        path = bus.path
    with closing(connect(path, writable=False)) as connection:
        yield CountingLog(connection)


async def test_scoped_history_does_the_same_work_with_and_without_hidden_events(
    tmp_path: Path,
) -> None:
    async with (
        open_log(tmp_path / "without", 0) as without,
        open_log(tmp_path / "few", HIDDEN // 4) as few,
        open_log(tmp_path / "with", HIDDEN) as beside,
    ):
        for name, query in QUERIES.items():
            answers, steps = [], []
            for log in (without, few, beside):
                history = History(log).within(OPEN)
                await query(history)
                log.steps = 0
                answers.append(await query(history))
                steps.append(log.steps)
            assert answers[0] == answers[1] == answers[2], name
            # Reading the names takes a few steps for each hidden one.
            assert abs(steps[2] - steps[1]) <= 50, (name, steps)
            if name != "shared type":
                # That is looked up by origin where its own index would lead to hidden events too.
                assert abs(steps[2] - steps[0]) <= 300 + 0.05 * steps[0], (name, steps)
        assert await History(beside).count(Filter()) == VISIBLE + HIDDEN
    print(f"{len(QUERIES)} queries with {HIDDEN:,} hidden events and without: 0 differ")


DEPENDENT: dict[str, Filter] = {
    "text": Filter(text="n"),
    "correlation": Filter(correlation="US-1"),
    "window": Filter(since=100, until=1_000),
    "since": Filter(since=1_000),
    "until": Filter(until=1_000),
    "text of a type": Filter(text="n", type="shared"),
}


@pytest.mark.parametrize("name", DEPENDENT)
async def test_scoped_answer_that_depends_on_hidden_events_comes_at_a_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chosen = DEPENDENT[name]
    sleeps: list[float] = []

    async def note(seconds: float) -> None:
        sleeps.append(seconds)

    times = iter([0.0, 0.012, 0.0, 0.051, 0.0, 0.1])
    async with open_log(tmp_path, 0) as log:
        history = History(log)
        monkeypatch.setattr("almenara.history.queries.sleep", note)
        monkeypatch.setattr("almenara.history.queries.monotonic", lambda: next(times))
        await history.events(chosen)
        assert sleeps == []
        scoped = history.within(OPEN)
        await scoped.events(chosen)
        await scoped.count(chosen)
        await scoped.buckets(chosen, since=0, until=1_000, width=100)
    assert sleeps == pytest.approx([0.038, 0.049, 0.0])


async def test_hidden_and_missing_names_take_the_same_work(tmp_path: Path) -> None:
    async with open_log(tmp_path, HIDDEN) as log:
        history = History(log).within(OPEN)
        steps = []
        for name in ("vault.bulk", "not.there"):
            log.steps = 0
            assert await history.events(Filter(type=name)) == []
            steps.append(log.steps)
        assert abs(steps[0] - steps[1]) < 100


async def test_scoped_history_is_right_where_pairs_come_and_go(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, retention_size=1, retention_interval=0.01)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([visible_event(number) for number in range(50)], "open")
        await bus.publish([hidden_event(number) for number in range(50)], "vault")
        history = History(bus).within(OPEN)
        assert await history.count_stored() == 50
        assert await history.types() == ["open.rare", "open.usual", "shared"]
        assert await history.origins() == ["open/a", "open/b"]
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        while await history.count_stored():
            await bus.save("x", "x", b"")
        rows = "SELECT count(*) FROM name_pairs"
        assert await bus.read(lambda each: each.execute(rows).fetchone()) == (0,)
        assert await history.within(OPEN).types() == []
