"""The series of samples that a query selects, and how several become one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from almenara.hookspecs import SampleQuery
from almenara.panels.filters import ResourceFilters, matches_pattern
from almenara.panels.formats import format_age
from almenara.panels.line_chart import Points, usual_interval
from almenara.panels.view import View
from almenara.signals import STALE_SINCE, UNKNOWN, Resource, now
from almenara.units import SECOND

STALE_STEPS: Final = 3
"""Usual intervals without a sample after which a series has no current value."""
STALE_AFTER: Final = 10 * SECOND
"""The least time after which it has none, whatever its interval."""
FIRST_STALE_AFTER: Final = 30 * SECOND
"""The same for a series with one sample, of which the interval is not known."""
REFRESH: Final = 5.0
"""Seconds after which a panel is rendered again although no sample arrives: to show just that."""
STEPS: Final = 60
"""Steps of a series that several were combined into."""

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


def stale_age(resource: Resource, points: Points, moment: int) -> str:
    """How long a series has been without a sample, if that is too long or if its resource is not
    known any more; empty otherwise.

    A value that is no longer measured is not the current value: panels show it as missing.
    """
    age = moment - points[-1][0]
    limit = STALE_AFTER if len(points) > 1 else FIRST_STALE_AFTER
    if is_known(resource) and age <= max(STALE_STEPS * usual_interval(points), limit):
        return ""
    return format_age(age / SECOND)


def current_value(view: View, resource: Resource, metric: str) -> float | None:
    """The newest value of a metric of a resource; None where it is no longer measured."""
    resources, key = view.resources, resource.key
    moment, newest = now(), resources.latest_time(*key, metric)
    if newest is None:
        return None
    is_recent = moment - newest <= STALE_AFTER and is_known(resource)
    # Its usual interval is needed for an older one alone. Of the past, its samples may still be
    # read: the panel is prepared again then.
    if not is_recent:
        points = resources.series(*key, metric)
        if not points or stale_age(resource, points, moment):
            return None
    return resources.latest(*key, metric)


def is_known(resource: Resource) -> bool:
    """Whether the source of a resource can read it."""
    return resource.status != UNKNOWN and resource.state.get(STALE_SINCE) is None


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
