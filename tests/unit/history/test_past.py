"""History as of a moment: what was stored then, whatever was stored since."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History, PastBound
from almenara.scope import Grant, build_scope
from almenara.signals import Event, Severity
from almenara.units import HOUR, SECOND

pytestmark = pytest.mark.anyio

START = 1_767_225_600_000_000
MOMENT = START + 100 * SECOND


def make_event(number: int, time: int, origin: str = "fleet/a") -> Event:
    severity = Severity.ERROR if number % 10 == 0 else Severity.INFO
    return Event(
        id=str(number), source="fleet", type="fleet.step", time=time, origin=origin,
        severity=severity, correlation=f"c-{number % 3}", data={"number": number},
    )  # fmt: skip


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    """A hundred events until the moment, and as many after it, ten of which are of before."""
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(n, START + n * SECOND) for n in range(100)], "fleet")
        late = [make_event(1_000 + n, START + n * SECOND) for n in range(10)]
        new = [make_event(2_000 + n, MOMENT + n * SECOND, "fleet/b") for n in range(90)]
        await bus.publish([*late, *new], "fleet")
        yield History(bus)


def as_of_moment(history: History) -> History:
    return history.as_of(PastBound(100, MOMENT))


async def test_events_stored_later_are_not_listed(history: History) -> None:
    past = as_of_moment(history)
    for chosen in (
        Filter(), Filter(severity=Severity.ERROR), Filter(correlation="c-1"),
        Filter(text="number"), Filter(origin="fleet/*"), Filter(since=START, until=MOMENT + HOUR),
    ):  # fmt: skip
        everything = await history.events(chosen, limit=1_000)
        expected = [record for record in everything if record.sequence <= 100]
        assert await past.events(chosen, limit=1_000) == expected
        assert await past.count(chosen) == len(expected)
    following = await past.events(Filter(), after=95, limit=2)
    assert [record.sequence for record in following] == [97, 96]
    assert await past.events(Filter(), after=100) == []
    assert await past.event(100) is not None
    assert await past.event(101) is None


async def test_counts_are_those_of_the_moment(history: History) -> None:
    past = as_of_moment(history)
    buckets = await past.buckets(Filter(), since=START, until=MOMENT + HOUR, width=10 * SECOND)
    assert [count for _, count, _ in buckets] == [10] * 10
    assert sum(errors for *_, errors in buckets) == 10
    assert await past.count(Filter(since=START)) == 100


async def test_count_of_many_events_is_by_their_time(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = as_of_moment(history)
    assert await past.count_stored() == 100
    monkeypatch.setattr("almenara.history.planner.SMALL_WINDOW", 5)
    # Those that came late are counted with the rest: the stored counts know the time alone.
    assert await past.count(Filter(since=START)) == 100 + 10 + 1
    assert await past.count(Filter(since=START, text="number")) == 100


async def test_past_is_limited_to_the_scope(history: History) -> None:
    scope = build_scope([Grant(sources=("fleet/b",))], access_log=False)
    past = as_of_moment(history.within(scope))
    assert await past.events(Filter()) == []
    assert await past.count(Filter(since=START)) == 0
