"""Reads the lines of a chart: stored samples between two times, joined with those in memory."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from almenara.hookspecs import Level, SeriesPanel
from almenara.panels.charts import ChartData, ChartLevel, ChartLine, LineKey, Window
from almenara.panels.filters import ResourceFilters, matches_pattern
from almenara.panels.formats import format_value
from almenara.panels.kinds.cells import value_at
from almenara.panels.kinds.samples import (
    COMBINE,
    combine_series,
    select_series,
)
from almenara.panels.line_chart import Points, usual_interval
from almenara.panels.slices import map_in_slices
from almenara.panels.view import View
from almenara.signals import Resource, now
from almenara.state.sample_history import SampleHistory, SeriesMatch, compute, match_patterns
from almenara.state.sample_quantiles import (
    bucket_points,
    parse_quantile,
    quantile_points,
    read_histograms,
)
from almenara.state.sample_schema import MINUTE_WIDTH, SeriesName
from almenara.units import MILLISECOND, SECOND

GAP_STEPS: Final = 6.0
"""A pause of so many usual steps between samples is a gap in the line."""
DENSE_GAP_STEPS: Final = 2.5
"""The same where the points are rollups."""
PLAIN_FUNCTIONS: Final = frozenset(("mean", "min", "max", "rate"))
HISTOGRAM_STEP: Final = MINUTE_WIDTH
"""The least step of a histogram: several scrapes, so that its buckets have counted enough."""
READ_LINES: Final = 200
"""Series that are read for a chart of single lines at most: those with the highest values."""
COMBINED: Final[LineKey] = ("", "", "")


def line_name(key: LineKey, names: str = "resource") -> str:
    """The name of a line in the legend, by the `line_names` of its panel."""
    _, namespace, name = key
    if names == "namespace":
        return namespace or name
    return f"{namespace}/{name}" if namespace and names == "resource" else name


class ChartReader:
    """Reads the lines of one `SeriesPanel`."""

    def __init__(self, panel: SeriesPanel) -> None:
        self.panel, self.query = panel, panel.query

    async def read(
        self, view: View, filters: ResourceFilters, selected: Sequence[Resource] | None,
        window: Window,
    ) -> ChartData:  # fmt: skip
        """Return the lines between two times; `selected` are the only resources, if any are."""
        current = self.find(view, filters, selected)
        keys = self._choose(current, filters, selected)
        match = self._match(filters, keys)
        step, lines = await self._read_lines(view, current, match, window)
        if self.panel.combined and lines:
            lines = [await combine_lines(lines, self.query.combine)]
        lines.sort(key=lambda line: -line.newest)
        visible = lines if self.query.function == "buckets" else lines[: self.query.limit]
        # By name, so that a line keeps its colour while the order of values changes.
        visible.sort(key=lambda line: line.key)
        return ChartData(
            since=window.since // MILLISECOND, until=window.until // MILLISECOND, step=step,
            style=self.panel.style, scale=self.panel.scale, format=self.panel.value_format,
            lines=[mark_gaps(line, step) for line in visible],
            levels=self.levels(view, current, {line.key for line in visible}),
            marks=[],
            more=len(lines) - len(visible),
            is_computed=self.panel.combined or self.is_histogram,
        )  # fmt: skip

    @property
    def is_histogram(self) -> bool:
        """Whether the metric is a histogram, of which memory has buckets alone."""
        return self.query.function not in PLAIN_FUNCTIONS

    def find(
        self, view: View, filters: ResourceFilters, selected: Sequence[Resource] | None
    ) -> list[tuple[Resource, Points]]:
        """Return the resources of the chart that exist now, with their last samples."""
        if selected is None:
            return select_series(view, self.query, filters)
        series = [
            (resource, view.resources.series(*resource.key, self.query.metric))
            for resource in selected
        ]
        return [(resource, points) for resource, points in series if points]

    def _choose(
        self,
        current: list[tuple[Resource, Points]],
        filters: ResourceFilters,
        selected: Sequence[Resource] | None,
    ) -> set[LineKey] | None:
        """Return the resources to read; None for all that the names of the query match."""
        if selected is not None:
            return {resource.key for resource in selected}
        is_narrowed = bool(filters.status or filters.text)
        if not is_narrowed and (self.panel.combined or len(current) <= READ_LINES):
            # Also those that no longer exist.
            return None
        if not self.panel.combined:
            current = sorted(current, key=lambda pair: -pair[1][-1][1])[:READ_LINES]
        return {resource.key for resource, _ in current}

    async def _read_lines(
        self,
        view: View,
        current: Sequence[tuple[Resource, Points]],
        match: SeriesMatch,
        window: Window,
    ) -> tuple[int, list[ChartLine]]:
        """Return the step in milliseconds, and a line for each resource."""
        since, until = window.since // MILLISECOND, -(-window.until // MILLISECOND)
        step = max(window.step // MILLISECOND, round(self.panel.step * 1000))
        if self.panel.combined:
            # Resources are measured at different times, and all of them within a minute.
            step = max(step, MINUTE_WIDTH)
        if view.samples is None:
            return step, self._lines_in_memory(current, since, until)
        if self.is_histogram:
            return await self._read_histogram(view.samples, match, since, until, step)
        step, all_series = await view.samples.rollups(
            match, since=since, until=until, step=step, moment=now() // MILLISECOND
        )  # fmt: skip
        lines: dict[LineKey, ChartLine] = {}
        for series in all_series:
            points = compute(series.rollups, self.query.function)  # type: ignore[arg-type]
            if points:
                times, values = zip(*points, strict=True)
                line = self._make_line(key_of(series.name), times, values)
                other = lines.get(line.key)
                # The same metric of the same resource, of two sources.
                lines[line.key] = line if other is None else merge_lines(other, line)
        return step, list(lines.values())

    async def _read_histogram(
        self, samples: SampleHistory, match: SeriesMatch, since: int, until: int, step: int
    ) -> tuple[int, list[ChartLine]]:
        """Return the quantile of each histogram or, for a heat map, the buckets of all of them."""
        step, histograms = await read_histograms(
            samples, match, since=since, until=until, step=max(step, HISTOGRAM_STEP),
            moment=now() // MILLISECOND,
        )  # fmt: skip
        function = self.query.function
        if function == "buckets":
            buckets = await asyncio.to_thread(bucket_points, histograms)
            return step, [
                _bucket_line(place, limit, points, self.panel.format)
                for place, (limit, points) in enumerate(buckets.items())
            ]
        share = parse_quantile(function) or 0.0
        lines = []
        for histogram in histograms:
            points = await asyncio.to_thread(quantile_points, histogram, share)
            if points:
                times, values = zip(*points, strict=True)
                lines.append(self._make_line(key_of(histogram.name), times, values))
        return step, lines

    def _match(self, filters: ResourceFilters, keys: set[LineKey] | None) -> SeriesMatch:
        query = self.query

        if keys is not None:
            return SeriesMatch(metric=query.metric, test=lambda name: key_of(name) in keys)

        def test(name: SeriesName) -> bool:
            return matches_pattern(filters.namespace, name.namespace) and matches_pattern(
                filters.name, name.name
            )

        names = {"kind": query.kind, "namespace": query.namespace, "name": query.name}
        return msgspec.structs.replace(match_patterns(names, test), metric=query.metric)

    def _lines_in_memory(
        self, current: Sequence[tuple[Resource, Points]], since: int, until: int
    ) -> list[ChartLine]:
        lines = []
        for resource, points in current:
            within = [
                (time // MILLISECOND, value)
                for time, value in self.transform(points)
                if since <= time // MILLISECOND < until
            ]
            if within:
                times, values = zip(*within, strict=True)
                lines.append(self._make_line(resource.key, times, values))
        return lines

    def _make_line(self, key: LineKey, times: Iterable[int], values: Iterable[float]) -> ChartLine:
        return make_line(key, times, values, self.panel.line_names)

    def transform(self, points: Points) -> Points:
        """The samples of a line as the chart shows them."""
        return rates(sorted(points)) if self.query.function == "rate" else points

    def levels(
        self, view: View, current: Sequence[tuple[Resource, Points]], visible: set[LineKey]
    ) -> list[ChartLevel]:
        """Return the thresholds, and the limits that the resources of the lines report."""
        resources = [
            resource for resource, _ in current if self.panel.combined or resource.key in visible
        ]
        is_sum = self.panel.combined or self.panel.style == "stacked"
        levels = []
        for level in self.panel.levels:
            value = level.value
            if value is None:
                value = _level_of(view, resources, level, is_sum)
            if value is not None:
                levels.append(
                    ChartLevel(
                        title=level.title, value=value, severity=level.severity.name,
                        colors=level.colors,
                    )
                )  # fmt: skip
        return levels


def _level_of(
    view: View, resources: Iterable[Resource], level: Level, is_sum: bool
) -> float | None:
    values = [value_at(view, resource, level.path) for resource in resources]
    numbers = [float(value) for value in values if isinstance(value, int | float) and value]
    # Where one of them has no limit, their sum has no limit.
    if not numbers or len(numbers) < len(values):
        return None
    if is_sum:
        return sum(numbers)
    return numbers[0] if len(set(numbers)) == 1 else None


def _bucket_line(
    place: int, limit: float, points: Sequence[tuple[int, float]], value_format: str
) -> ChartLine:
    """The line of a bucket; its key sorts the buckets by their limit."""
    text = f"\u2264 {format_value(limit, value_format)}" if limit != math.inf else "more"
    return ChartLine(
        key=(f"bucket {place:04}", "", ""), name=text,
        times=[time for time, _ in points], values=[value for _, value in points],
    )  # fmt: skip


def key_of(name: SeriesName) -> LineKey:
    """The key of the resource of a series."""
    return name.kind, name.namespace, name.name


def make_line(
    key: LineKey, times: Iterable[int], values: Iterable[float], names: str = "resource"
) -> ChartLine:
    """A line of times in milliseconds and values."""
    return ChartLine(key=key, name=line_name(key, names), times=list(times), values=list(values))


def merge_lines(one: ChartLine, other: ChartLine) -> ChartLine:
    """The points of two lines as one; where both have a point, that of the other counts."""
    points = dict(zip(one.times, one.values, strict=True))
    points.update(zip(other.times, other.values, strict=True))
    times = sorted(points)
    return msgspec.structs.replace(one, times=times, values=[points[time] for time in times])


def combine_points(series: Sequence[Points], how: str) -> Points:
    """The last samples of several resources as one line."""
    first = min(points[0][0] for points in series)
    last = max(points[-1][0] for points in series)
    values = combine_series(series, how)
    return [
        (round(first + (last - first) * place / max(len(values) - 1, 1)), value)
        for place, value in enumerate(values)
    ]


def rates(points: Points) -> Points:
    """The increase a second of a counter between its samples; a fall is a restart from 0."""
    return [
        (time, (value - before if value >= before else value) * SECOND / (time - earlier))
        for (earlier, before), (time, value) in pairwise(points)
        if time > earlier
    ]


async def combine_lines(lines: Sequence[ChartLine], how: str) -> ChartLine:
    """One line of several on common steps."""
    values: dict[int, list[float]] = {}

    def add(line: ChartLine) -> None:
        for time, value in zip(line.times, line.values, strict=True):
            if value is not None:
                values.setdefault(time, []).append(value)

    await map_in_slices(add, lines)
    times = sorted(values)
    combine = COMBINE[how]
    return ChartLine(
        key=COMBINED, name="all", times=times, values=[combine(values[time]) for time in times]
    )


def mark_gaps(line: ChartLine, step: int) -> ChartLine:
    """The line with a None where its samples stop for several usual steps."""
    usual = usual_interval([(time, 0.0) for time in line.times])
    if not usual:
        return line
    # A step of one sample or more: two that are missing are a pause.
    factor = DENSE_GAP_STEPS if usual == step and step >= MINUTE_WIDTH else GAP_STEPS
    times: list[int] = []
    values: list[float | None] = []
    for time, value in zip(line.times, line.values, strict=True):
        if times and time - times[-1] > usual * factor:
            times.append(times[-1] + usual)
            values.append(None)
        times.append(time)
        values.append(value)
    return msgspec.structs.replace(line, times=times, values=values)
