"""The series of samples that a query selects, and how several become one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from almenara.hookspecs import SampleQuery
from almenara.panels.filters import ResourceFilters, matches_pattern
from almenara.panels.view import View
from almenara.signals import Resource

STEPS: Final = 60
"""Steps of a series that several were combined into."""

Points = list[tuple[int, float]]
"""Time in microseconds, and value, oldest first."""

COMBINE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "sum": sum,
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "min": min,
}


def select_series(
    view: View, query: SampleQuery, filters: ResourceFilters
) -> list[tuple[Resource, Points]]:
    """The resources that a query and the filters select, each with its samples."""
    return [
        (resource, view.resources.series(*resource.key, query.metric))
        for resource in view.resources.with_metric(query.metric)
        if matches_pattern(query.kind, resource.kind)
        and matches_pattern(query.namespace, resource.namespace)
        and matches_pattern(query.name, resource.name)
        and not resource.deleted
        and filters.matches(resource)
    ]


def combine_series(series: Sequence[Points], how: str) -> list[float]:
    """One series of several, on common steps: each keeps its value until its next sample."""
    first = min(points[0][0] for points in series)
    last = max(points[-1][0] for points in series)
    step = max((last - first) / STEPS, 1.0)
    combined: list[float] = []
    places = [0] * len(series)
    for number in range(STEPS + 1):
        moment = first + number * step
        values = []
        for index, points in enumerate(series):
            place = places[index]
            while place < len(points) and points[place][0] <= moment:
                place += 1
            places[index] = place
            if place:
                values.append(points[place - 1][1])
        if values:
            combined.append(COMBINE[how](values))
    return combined
