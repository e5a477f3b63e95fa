"""Rollups: minimum, maximum, sum, number and increase of the samples in buckets of time."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import fsum
from typing import Final

from almenara.state.sample_codec import Points, Rollups, scale_values
from almenara.units import HOUR, MILLISECOND

STEPS_PER_FALL: Final = 16
"""A series that falls more than once, and in more than one of so many steps, is a gauge and has no
rate."""
LONGEST_STEP: Final = 2 * HOUR // MILLISECOND
"""Milliseconds between two samples beyond which it is unknown by how much a counter rose."""


def roll_up(
    points: Points,
    width: int,
    before: tuple[int, float] | None = None,
    *,
    with_spans: bool = False,
) -> Rollups:
    """Return the rollups of samples in buckets of `width` milliseconds.

    `before` is the last sample before these, from which a counter rises. Sums of decimal values are
    exact.
    """
    times, values = points.times, points.values
    rollups = Rollups([], [], [], [], [])
    if not values:
        return rollups
    if before is not None and times[0] - before[0] > LONGEST_STEP:
        before = None
    known = values if before is None else [before[1], *values]
    scaled = scale_values(known)
    numbers: Sequence[float] = known if scaled is None else scaled[1]
    factor = 1.0 if scaled is None else 10.0 ** scaled[0]
    add = add_floats if scaled is None else sum
    steps = [after - first if after >= first else after for first, after in pairwise(numbers)]
    falls = sum(after < first for first, after in pairwise(numbers))
    if before is None:
        steps.insert(0, 0)
    else:
        numbers = numbers[1:]
    if times[-1] - times[0] > LONGEST_STEP:
        for place, (earlier, time) in enumerate(pairwise(times), 1):
            if time - earlier > LONGEST_STEP:
                steps[place] = 0
    increases: list[float] = []
    pauses = _list_pauses(times, before) if with_spans else []
    spans: list[int] = []
    starts = [time // width * width for time in times]
    first, count = 0, len(values)
    while first < count:
        start = starts[first]
        end = bisect_left(starts, start + 1, first)
        bucket = numbers[first:end]
        rollups.times.append(start)
        rollups.lows.append(min(bucket) / factor)
        rollups.highs.append(max(bucket) / factor)
        rollups.totals.append(add(bucket) / factor)
        rollups.counts.append(end - first)
        increases.append(add(steps[first:end]) / factor)
        spans.append(sum(pauses[first:end]))
        first = end
    if with_spans:
        rollups.spans = spans
    if falls <= max(len(steps) // STEPS_PER_FALL, 1):
        rollups.increases = increases
    return rollups


def single_rollups(points: Points, before: tuple[int, float] | None) -> Rollups:
    """Return samples as rollups of one sample each, with what each rises by, also of a gauge."""
    times, values = points.times, points.values
    earlier = [*([before] if before is not None else []), *zip(times, values, strict=True)]
    increases = [
        0.0 if time - previous > LONGEST_STEP else value - first if value >= first else value
        for (previous, first), (time, value) in pairwise(earlier)
    ]
    if values and before is None:
        increases.insert(0, 0.0)
    is_known = before is not None and bool(times) and times[0] - before[0] <= LONGEST_STEP
    return Rollups(
        times, values, values, values, [1] * len(times), increases,
        spans=_list_pauses(times, before), is_first_known=is_known,
    )  # fmt: skip


def _list_pauses(times: Sequence[int], before: tuple[int, float] | None) -> list[int]:
    """Return the time from the sample before each sample to it; 0 where its rise is not known."""
    if not times:
        return []
    first = times[0] if before is None else before[0]
    pauses = (time - earlier for earlier, time in pairwise((first, *times)))
    return [pause if pause <= LONGEST_STEP else 0 for pause in pauses]


def measure_spans(rollups: Rollups, width: int) -> list[int]:
    """Return about which milliseconds the increases of stored rollups cover.

    Samples have a usual interval, so their number says how long a bucket's increase took, unless
    samples were missing before it or at its end. Then the time from bucket to bucket counts. What
    the first bucket covers is known only where it rose within itself alone.
    """
    times, counts = rollups.times, rollups.counts
    if not times or rollups.increases is None:
        return [0] * len(times)
    interval = _usual_interval(times, counts, width)
    rise = rollups.highs[0] - rollups.lows[0]
    is_first = math.isclose(rollups.increases[0], rise, rel_tol=1e-9)
    spans = [round((counts[0] - 1) * interval) if is_first else 0]
    unused = 0.0
    """What the samples of the bucket before leave of its end."""
    for place in range(1, len(times)):
        pause = times[place] - times[place - 1] + unused
        by_count = counts[place] * interval
        is_last = place == len(times) - 1 or times[place + 1] - times[place] > interval + width
        unused = max(width - by_count, 0.0) if is_last else 0.0
        if pause > LONGEST_STEP:
            # The increase does not count the pause.
            spans.append(round(by_count - interval))
        elif abs(by_count - pause) < interval:
            spans.append(round(by_count))
        else:
            spans.append(round(pause - unused))
    return spans


def known_rise(rollups: Rollups, first: int, end: int) -> tuple[float, int]:
    """Return by how much a counter rose in the buckets from one place to another of which it is
    known how long that took, and the milliseconds that it took."""
    increases, spans = rollups.increases or [], rollups.spans or []
    if first == 0 and spans and not spans[0]:
        first = 1
    return add_floats(increases[first:end]), sum(spans[first:end])


def _usual_interval(times: Sequence[int], counts: Sequence[int], width: int) -> float:
    """Return the usual milliseconds between two samples, by those of whole buckets."""
    buckets = [
        (time - earlier, count)
        for (earlier, time), count in zip(pairwise(times), counts[1:], strict=False)
    ]
    # The last bucket may have just started.
    buckets = buckets[:-1] or buckets
    if not buckets:
        return width / counts[0]
    (usual, number), *_ = Counter(buckets).most_common(1)
    if number * 4 >= len(buckets) * 3:
        return usual[0] / usual[1]
    middle = sorted(pause for pause, _ in buckets)[len(buckets) // 2]
    whole = [(pause, count) for pause, count in buckets if pause <= 2 * middle]
    return sum(pause for pause, _ in whole) / sum(count for _, count in whole)


def add_floats(values: Sequence[float]) -> float:
    """Return the exact sum, rounded once; infinite where it is beyond the range of floats, and no
    number where infinities of both signs are added."""
    try:
        return fsum(values)
    except (OverflowError, ValueError):
        return sum(values)


def coarsen(rollups: Rollups, width: int) -> Rollups:
    """Return the same rollups in buckets of `width` milliseconds, a multiple of theirs."""
    coarse = Rollups([], [], [], [], [], None if rollups.increases is None else [])
    coarse.spans = None if rollups.spans is None else []
    starts = [time // width * width for time in rollups.times]
    first, count = 0, len(starts)
    while first < count:
        end = bisect_left(starts, starts[first] + 1, first)
        coarse.times.append(starts[first])
        coarse.lows.append(min(rollups.lows[first:end]))
        coarse.highs.append(max(rollups.highs[first:end]))
        coarse.totals.append(add_floats(rollups.totals[first:end]))
        coarse.counts.append(sum(rollups.counts[first:end]))
        if coarse.increases is not None and rollups.increases is not None:
            coarse.increases.append(add_floats(rollups.increases[first:end]))
        if coarse.spans is not None and rollups.spans is not None:
            is_known = first > 0 or rollups.spans[0] > 0 or not (rollups.increases or [0])[0]
            coarse.spans.append(sum(rollups.spans[first:end]) if is_known else 0)
        first = end
    return coarse


def join(parts: Iterable[Rollups]) -> Rollups:
    """Return the rollups of several stretches of time as one, in the order of time.

    Where two have the same bucket, the later part counts. A part without increases makes the whole
    one without.
    """
    rows: dict[int, tuple[float, float, float, int, float]] = {}
    has_increases = True
    for part in parts:
        has_increases = has_increases and (part.increases is not None or not part.times)
        increases = part.increases or [0.0] * len(part.times)
        rows.update(
            zip(
                part.times,
                zip(part.lows, part.highs, part.totals, part.counts, increases, strict=True),
                strict=True,
            )
        )
    times = sorted(rows)
    if not times:
        return Rollups([], [], [], [], [])
    lows, highs, totals, counts, rises = zip(*(rows[time] for time in times), strict=True)
    return Rollups(
        times, list(lows), list(highs), list(totals), list(counts),
        list(rises) if has_increases else None,
    )  # fmt: skip
