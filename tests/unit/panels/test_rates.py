"""Rates of counters: charts, queries, live points and pictures have the same, whatever the step."""

from pathlib import Path

import pytest

from almenara.panels.kinds.chart_reader import rates
from almenara.promql.evaluation import Evaluator, Steps, Vector
from almenara.promql.parser import parse_query
from almenara.state.rollups import LONGEST_STEP, coarsen, measure_spans, roll_up
from almenara.state.sample_codec import Points, Rollups
from almenara.state.sample_history import SeriesMatch, compute
from almenara.units import MILLISECOND
from support.moved_clock import MovedClock
from support.sample_runs import START, make_sample, running

pytestmark = pytest.mark.anyio

INTERVAL = 30_000
PHASE = 7_000
LAST = 120
"""The number of the last sample: it is the only one of its minute."""
RESET = 43
GAP = range(61, 80)
"""Samples that are missing."""
SINCE, UNTIL = START + 300_000, START + LAST * INTERVAL + PHASE + 1


def list_samples() -> list[tuple[int, float]]:
    """A counter that rises by one a second, and by 15 in all when it was reset."""
    return [
        (
            START + PHASE + number * INTERVAL,
            float(1000 + number * 30 if number < RESET else 15 + (number - RESET) * 30),
        )
        for number in range(LAST + 1)
        if number not in GAP
    ]


async def query(step: int, folder: Path, *, is_sealed: bool) -> dict[int, float]:
    """The rate in each step, of the chart; those of a query must be the same."""
    clock = MovedClock(START * MILLISECOND)
    clock.move(3_700.0)
    async with running(folder, clock) as run:
        await run.publish(*(make_sample(time, value) for time, value in list_samples()))
        if is_sealed:
            await run.store.flush()
            clock.move(4 * 3_600.0)
            await run.store.maintain()
        answered, (series,) = await run.history.rollups(
            SeriesMatch(), since=SINCE, until=UNTIL, step=step, moment=run.moment
        )
        assert answered == step
        points = compute(series.rollups, "rate")
        assert points is not None
        # The range of a query ends with its moment, which it includes.
        steps = Steps(SINCE // step * step + step - 1, UNTIL + step, step)
        if step >= 60_000:
            steps = Steps(SINCE // step * step + step, UNTIL + step, step)
        evaluator = Evaluator(run.history, steps, run.moment)
        vector = await evaluator.evaluate(parse_query(f"rate(cpu[{step}ms])"))
        assert isinstance(vector, Vector)
        ((_, values),) = vector.series
        found = {
            moment // step * step - (step if step >= 60_000 else 0): value
            for moment, value in zip(steps.moments(), values, strict=True)
            if value is not None
        }
        assert found == pytest.approx(dict(points))
        return dict(points)


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("step", [6_000, 45_000, 60_000])
async def test_rate_does_not_depend_on_the_step(step: int, is_sealed: bool, tmp_path: Path) -> None:
    reset = START + PHASE + RESET * INTERVAL
    of_step: dict[int, list[int]] = {}
    for time, _ in list_samples():
        if time >= SINCE // step * step:
            of_step.setdefault(time // step * step, []).append(time)
    expected = {}
    for start, times in of_step.items():
        before = max(time for time, _ in list_samples() if time < times[0])
        lost = 15 if reset in times else 0
        expected[start] = 1 - lost * 1000 / (times[-1] - before)
    answered = await query(step, tmp_path, is_sealed=is_sealed)
    assert answered == pytest.approx(expected, abs=0, rel=1e-12)
    assert sorted(set(answered.values())) == [0.75 if step > INTERVAL else 0.5, 1.0]


def test_live_points_have_the_same_rates() -> None:
    points = rates([(time * MILLISECOND, value) for time, value in list_samples()])
    assert [value for _, value in points] == [
        0.5 if time == (START + PHASE + RESET * INTERVAL) * MILLISECOND else 1.0
        for time, _ in points
    ]


def minutes(times: list[int], *, before: int | None = None) -> list[float]:
    """The rates that are measured in minutes of a counter of milliseconds."""
    rollups = roll_up(
        Points(times, [float(time) for time in times]),
        60_000,
        None if before is None else (before, float(before)),
    )
    rollups.spans = measure_spans(rollups, 60_000)
    points = compute(rollups, "rate")
    assert points is not None
    return [value for _, value in points]


@pytest.mark.parametrize("interval", [5_000, 15_000, 30_000, 45_000, 60_000, 90_000, 300_000])
@pytest.mark.parametrize("phase", [0, 3_000, 21_000])
def test_rates_of_rollups_are_exact_for_any_regular_interval(interval: int, phase: int) -> None:
    times = [phase + number * interval for number in range(200)]
    values = minutes(times)
    assert len(values) > 15
    # Where the interval is no part of a minute, the first bucket does not say how long it counted.
    assert values[1:] == pytest.approx([1000.0] * (len(values) - 1), rel=0.01)


def test_samples_that_are_missing_do_not_raise_the_rate() -> None:
    times = [number * 15_000 for number in range(400) if number not in (50, 121, 122, 200)]
    assert minutes(times) == pytest.approx([1000.0] * 100, rel=1e-3)
    long = [*range(0, 600_000, 15_000), *range(4_200_000, 4_800_000, 15_000)]
    assert minutes(long) == pytest.approx([1000.0] * 20, rel=1e-3)


def test_first_bucket_after_a_pause_of_unknown_length_has_no_rate() -> None:
    times = [*range(0, 600_000, 15_000)]
    assert minutes(times, before=-1_800_000) == [1000.0] * 9
    assert minutes(times) == [1000.0] * 10


def test_pause_beyond_the_longest_step_counts_for_nothing() -> None:
    pause = LONGEST_STEP * 2
    times = [*range(0, 600_000, 15_000), *range(pause, pause + 600_000, 15_000)]
    assert minutes(times) == pytest.approx([1000.0] * 20)


def test_coarse_steps_cover_what_their_buckets_do() -> None:
    rollups = Rollups(
        [0, 60_000, 120_000, 180_000], [0.0] * 4, [0.0] * 4, [0.0] * 4, [4] * 4,
        [90.0, 60.0, 60.0, 30.0], [0, 60_000, 60_000, 30_000],
    )  # fmt: skip
    assert compute(coarsen(rollups, 120_000), "rate") == [(120_000, 1.0)]
    rollups.increases = [0.0, 60.0, 60.0, 30.0]
    assert compute(coarsen(rollups, 120_000), "rate") == [(0, 1.0), (120_000, 1.0)]
