"""The sample store: compared with a plain list of samples, over flushes, sealing and restarts."""

import asyncio
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from almenara.config import SampleSettings
from almenara.errors import LimitExceeded
from almenara.scope import Grant, build_scope
from almenara.signals import Resource
from almenara.state.sample_history import MAX_POINTS, SeriesMatch, compute
from almenara.state.sample_schema import WINDOW
from almenara.units import MILLISECOND
from support.moved_clock import MovedClock
from support.sample_runs import START, PlainSamples, compare, make_sample, running

pytestmark = pytest.mark.anyio

HOURS = 10

ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"), st.integers(0, HOURS * 3_600_000), st.integers(1, 40),
            st.sampled_from((500, 15_000, 60_000, 400_000)), st.sampled_from(("counter", "gauge")),
        ),
        st.tuples(st.just("flush")),
        st.tuples(st.just("advance"), st.integers(1, 4)),
        st.tuples(st.just("restart")),
    ),
    min_size=3, max_size=12,
)  # fmt: skip
QUERIES = st.lists(
    st.tuples(
        st.integers(-1, HOURS * 60), st.integers(1, HOURS * 60),
        st.sampled_from((1_000, 30_000, 60_000, 300_000, 3_600_000, 7_000_000)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS, queries=QUERIES)
def test_store_answers_as_a_plain_list(
    actions: list[tuple[object, ...]], queries: list[tuple[int, int, int]]
) -> None:
    asyncio.run(compare_with_plain_list(actions, queries))


async def compare_with_plain_list(actions: list, queries: list[tuple[int, int, int]]) -> None:  # type: ignore[type-arg]
    plain, clock = PlainSamples(), MovedClock(START * MILLISECOND)
    clock.move(HOURS * 3600.0)
    with tempfile.TemporaryDirectory() as folder:
        remaining = list(actions)
        while remaining:
            async with running(Path(folder), clock) as run:
                while remaining:
                    action = remaining.pop(0)
                    match action:
                        case ("publish", offset, count, interval, name):
                            samples = [
                                make_sample(
                                    START + offset + number * interval,
                                    float(number % 30) if name == "counter" else 1 / (number + 3),
                                    name,
                                )
                                for number in range(count)
                            ]
                            plain.add(samples)
                            await run.publish(*samples)
                        case ("flush",):
                            await run.store.flush()
                        case ("advance", hours):
                            clock.move(hours * 3600.0)
                            await run.store.maintain()
                        case ("restart",):
                            break
                for first, length, step in queries:
                    await compare(run, plain, START + first * 60_000, length * 60_000, step)


async def test_query_has_few_points_and_joins_memory_without_a_seam(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    async with running(tmp_path, clock) as run:
        for hour in range(5):
            first = START + hour * 3_600_000
            await run.publish(
                *(make_sample(first + 15_000 * number, float(hour)) for number in range(240))
            )
            clock.move(3600.0)
            if hour < 4:
                await run.store.flush()
                await run.store.maintain()
        for length in (1, 2, 5):
            since = START + (5 - length) * 3_600_000
            answer = await run.rollups(since, START + 5 * 3_600_000, 1)
            assert sum(row[3] for row in answer["web"].values()) == 240 * length
            assert len(answer["web"]) <= MAX_POINTS
            times = sorted(answer["web"])
            assert max(after - before for before, after in itertools.pairwise(times)) <= 60_000
            assert answer["web"][times[-1]][0] == 4.0


async def test_gap_stays_a_gap(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    async with running(tmp_path, clock) as run:
        clock.move(3600.0)
        samples = [make_sample(START + 60_000 * number, 1.0) for number in range(60)]
        await run.publish(*samples[:10], *samples[40:])
        answer = await run.rollups(START, START + 3_600_000, 60_000)
        assert sorted(answer["web"]) == [
            START + 60_000 * number for number in (*range(10), *range(40, 60))
        ]


async def test_restart_fills_charts_of_resources_that_still_exist(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    clock.move(1800.0)
    pod = {"kind": "pod", "namespace": "shop", "origin": "test"}
    async with running(tmp_path, clock) as run:
        await run.publish(
            Resource(name="web", **pod),
            Resource(name="old", **pod),
            *(make_sample(START + 15_000 * number, float(number)) for number in range(110)),
            *(make_sample(START + 15_000 * number, 1.0, "old") for number in range(110)),
            *(make_sample(START + 15_000 * number, 2.0, "x", kind="job") for number in range(9)),
            Resource(name="old", deleted=True, **pod),
        )
        before = run.resources.series("pod", "shop", "web", "cpu")
        await run.store.flush()
        await run.publish(make_sample(START + 1_790_000, 7.0))
    async with running(tmp_path, clock) as run:
        await run.publish(make_sample(START + 1_795_000, 8.0))
        series = run.resources.series("pod", "shop", "web", "cpu")
        assert series == [
            *before,
            ((START + 1_790_000) * MILLISECOND, 7.0),
            ((START + 1_795_000) * MILLISECOND, 8.0),
        ]
        assert len(run.resources.series("job", "shop", "x", "cpu")) == 9


async def test_scope_limits_stored_series_as_those_in_memory(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    clock.move(600.0)
    async with running(tmp_path, clock) as run:
        key = {"kind": "pod", "namespace": "shop", "name": "web"}
        await run.publish(
            Resource(**key, origin="job/eu", state={"labels": {"app": "web"}}),
            make_sample(START, 1.0, origin="job/eu"),
            make_sample(START, 9.0, origin="vault"),
            make_sample(START, 3.0, "b", origin="job/eu", namespace="other"),
        )
        for is_stored in (False, True):
            if is_stored:
                await run.store.flush()
            for grant, expected in (
                (Grant(sources=("job",)), {("web", "job/eu"), ("b", "job/eu")}),
                (Grant(namespaces=("shop",)), {("web", "job/eu"), ("web", "vault")}),
                (Grant(labels=(("app", "web"),)), {("web", "job/eu"), ("web", "vault")}),
                (Grant(types=("a",)), set()),
            ):
                scope = build_scope([grant], access_log=False)
                narrowed = run.history.within(run.resources.within(scope))
                matches = await narrowed.find(SeriesMatch(), START, START + 1)
                assert {(series.name.name, series.name.origin) for series in matches} == expected


async def test_series_of_one_origin_are_bounded_and_reported(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    clock.move(60.0)
    async with running(tmp_path, clock, SampleSettings(max_series=5)) as run:
        await run.publish(*(make_sample(START, 1.0, f"n{number}") for number in range(12)))
        await run.publish(make_sample(START, 1.0, "one", origin="other"), origin="other")
        await run.store.flush()
        await run.store.maintain()
        assert run.store.report.refused == {"test": 7}
        assert run.store.report.series == 6
        (warning,) = run.resources.warnings
        assert "test has 5 stored series" in warning
        assert "7 samples" in warning
        # Those that ended a day ago are removed for new ones.
        clock.move(30 * 3600.0)
        await run.store.maintain()
        await run.publish(make_sample(run.moment, 1.0, "new"))
        await run.store.flush()
        matches = await run.history.find(SeriesMatch(origin="test"), START, run.moment + 1)
        assert [series.name.name for series in matches] == ["new"]


async def test_retention_removes_each_level_after_its_age(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    chosen = SampleSettings(
        retention_age=6 * 3600.0, minute_retention_age=24 * 3600.0,
        hour_retention_age=4 * 86400.0,
    )  # fmt: skip
    async with running(tmp_path, clock, chosen) as run:
        clock.move(3600.0)
        await run.publish(*(make_sample(START + 15_000 * n, float(n)) for n in range(200)))
        await run.store.flush()
        counts = {}
        for hours in (3, 12, 36, 120):
            clock.move(hours * 3600.0)
            await run.store.maintain()
            counts[hours] = [
                await run.store.read(
                    lambda connection, table=table: connection.execute(
                        f"SELECT count(*) FROM {table}"
                    ).fetchone()[0]
                )
                for table in ("fresh", "raw", "minutes", "hours")
            ]
        assert counts == {3: [0, 1, 1, 1], 12: [0, 0, 1, 1], 36: [0, 0, 0, 1], 120: [0, 0, 0, 0]}


async def test_store_above_its_size_removes_the_oldest(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    async with running(tmp_path, clock, SampleSettings(retention_size=150_000)) as run:
        for window in range(8):
            first = START + window * WINDOW
            clock.move(7200.0)
            await run.publish(
                *(
                    make_sample(first + 15_000 * number, number / 7, f"p{pod}")
                    for pod in range(8)
                    for number in range(240)
                )
            )
            await run.store.flush()
        clock.move(3600.0)
        await run.store.maintain()
        assert run.store.report.bytes_used <= 150_000
        assert any("is full" in warning for warning in run.store.warnings)
        answer = await run.rollups(START, run.moment, 3_600_000, name="p1")
        assert len(answer["p1"]) < 16
        assert max(answer["p1"]) == START + 7 * WINDOW


async def test_samples_of_a_wrong_time_are_left_out_and_reported(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    async with running(tmp_path, clock) as run:
        wrong = (START - 10 * 86_400_000, START + 86_400_000, -(2**50), 2**52)
        await run.publish(*(make_sample(time, 1.0) for time in (*wrong, START)))
        await run.store.flush()
        assert run.store.out_of_range == {"test": 4}
        answer = await run.rollups(START - 86_400_000, START + 1, 3_600_000)
        assert [row[3] for row in answer["web"].values()] == [1]
        assert "4 samples of test" in run.resources.warnings[0]


async def test_query_of_too_many_chunks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara.state.sample_history.MAX_CHUNKS", 20)
    clock = MovedClock(START * MILLISECOND)
    async with running(tmp_path, clock) as run:
        await run.publish(*(make_sample(START, 1.0, f"n{number}") for number in range(5)))
        assert len(await run.rollups(START, START + 60_000, 1_000)) == 5
        with pytest.raises(LimitExceeded, match="narrow it to fewer series"):
            await run.rollups(START - 86_400_000, START + 60_000, 1_000)


async def test_rate_is_the_increase_a_second(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    async with running(tmp_path, clock) as run:
        clock.move(7200.0)
        values = [
            float(number * 30 if number < 100 else (number - 100) * 30) for number in range(240)
        ]
        await run.publish(
            *(make_sample(START + 15_000 * n, value) for n, value in enumerate(values))
        )
        step, (series,) = await run.history.rollups(
            SeriesMatch(), since=START, until=START + 3_600_000, step=60_000, moment=run.moment
        )
        points = compute(series.rollups, "rate")
        assert points is not None
        assert [time for time, _ in points] == [START + step * number for number in range(60)]
        # The first step has no sample before its first, and one has the reset.
        assert [value for _, value in points] == [2.0] * 25 + [1.5] + [2.0] * 34
