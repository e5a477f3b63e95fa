"""Histograms of stored samples: what their buckets counted in each step, and quantiles of that."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from almenara.histograms import Counts, bucket_prefix, parse_limit, quantile, split_bucket
from almenara.state.sample_history import SampleHistory, SeriesMatch, SeriesRollups
from almenara.state.sample_schema import SeriesName

QUANTILE: Final = re.compile(r"p(\d{1,2}(?:\.\d{1,4})?)")


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """What the buckets of one histogram counted in steps of time."""

    name: SeriesName
    """With the metric of the histogram, without bucket and limit."""
    unit: str
    counts: Mapping[int, Counts]
    """By the start of the step in milliseconds: the increase of each bucket, by its limit."""


def parse_quantile(function: str) -> float | None:
    """Return the share of a function such as `p95` or `p99.9`; None for others."""
    matched = QUANTILE.fullmatch(function)
    return float(matched[1]) / 100 if matched else None


async def read_histograms(
    samples: SampleHistory, match: SeriesMatch, *, since: int, until: int, step: int, moment: int
) -> tuple[int, list[Histogram]]:
    """Return the histograms whose metric and names match, in steps, and the step.

    Times in milliseconds. Raises what `SampleHistory.rollups` raises.
    """
    buckets = msgspec.structs.replace(match, metric=None, prefix=bucket_prefix(match.metric or ""))
    step, all_series = await samples.rollups(
        buckets, since=since, until=until, step=step, moment=moment
    )
    return step, await asyncio.to_thread(join_buckets, all_series)


def join_buckets(all_series: Sequence[SeriesRollups]) -> list[Histogram]:
    """Return one histogram of all buckets of a resource."""
    joined: dict[SeriesName, dict[int, dict[float, float]]] = {}
    units: dict[SeriesName, str] = {}
    for series in all_series:
        bucket = split_bucket(series.name.metric)
        increases = series.rollups.increases
        if bucket is None or increases is None:
            continue
        metric, text = bucket
        limit = parse_limit(text)
        if limit is None:
            continue
        name = series.name._replace(metric=metric.removesuffix("_bucket"))
        units.setdefault(name, series.unit)
        counts = joined.setdefault(name, {})
        for time, increase in zip(series.rollups.times, increases, strict=True):
            counts.setdefault(time, {})[limit] = increase
    return [
        Histogram(name=name, unit=units[name], counts=counts) for name, counts in joined.items()
    ]


def quantile_points(histogram: Histogram, share: float) -> list[tuple[int, float]]:
    """Return the time in milliseconds and a quantile of each step in which anything was counted."""
    points = []
    for time in sorted(histogram.counts):
        value = quantile(share, histogram.counts[time])
        if value is not None:
            points.append((time, value))
    return points


def bucket_points(
    histograms: Sequence[Histogram],
) -> dict[float, list[tuple[int, float]]]:
    """Return what all histograms counted in each of their buckets alone, by the upper limit."""
    limits = sorted({limit for each in histograms for counts in each.counts.values()
                     for limit in counts})  # fmt: skip
    times = sorted({time for each in histograms for time in each.counts})
    totals: dict[int, dict[float, float]] = {}
    for each in histograms:
        for time, counts in each.counts.items():
            sums = totals.setdefault(time, {})
            for limit, count in counts.items():
                sums[limit] = sums.get(limit, 0.0) + count
    points: dict[float, list[tuple[int, float]]] = {}
    for place, limit in enumerate(limits):
        lower = limits[place - 1] if place else None
        points[limit] = [
            (time, max(totals[time].get(limit, 0.0) - totals[time].get(lower, 0.0), 0.0))
            if lower is not None
            else (time, totals[time].get(limit, 0.0))
            for time in times
        ]
    return points
