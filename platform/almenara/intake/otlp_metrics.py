"""Metrics of OpenTelemetry: their numbers become samples, named as Prometheus names them."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.histograms import bucket_metric
from almenara.intake.otlp_values import (
    optional,
    read_attributes,
    read_number,
    read_time,
    service_of,
    walk,
    write_labels,
)
from almenara.signals import Resource, Sample, Signal

SERVICE_KIND: Final = "otel.service"
NO_VALUE: Final = 1
"""The flag of a data point without a value."""
DELTA: Final = (1, "AGGREGATION_TEMPORALITY_DELTA")
"""Values of `aggregation_temporality` of points that count from the point before."""
MAX_BUCKETS: Final = 200
"""Buckets of a histogram that are stored; of one with more, only count and sum are."""


class Number(msgspec.Struct, frozen=True):
    """A number of a data point."""

    value: float
    suffix: str = ""
    """The end of the metric's name."""
    labels: Mapping[str, str] = {}
    """Besides those of the data point."""
    bound: float | None = None
    """Of a bucket, the value that none of those it counts exceeds."""

    def name_metric(self, metric: str, labels: Mapping[str, Any]) -> str:
        """Return the metric of the sample of this number. Labels come before the bound of a bucket,
        so that the buckets of each labelled histogram are one."""
        if self.bound is not None:
            return bucket_metric(metric + write_labels(labels), self.bound)
        return metric + self.suffix + write_labels({**labels, **self.labels})


class Read(msgspec.Struct, frozen=True):
    """What a request contains, and how much of it has no signal."""

    signals: Sequence[Signal]
    rejected: int = 0


def read_metrics(request: Any, received: int) -> Read:
    """Return the samples of each data point, and a resource for each service.

    Data points without a finite number are rejected, and those with delta temporality: samples of a
    counter rise from its start, and rates are computed from that.
    """
    signals: list[Signal] = []
    services: set[tuple[str, str]] = set()
    rejected = 0
    for resource, _, metric in walk(request, "resource_metrics", "scope_metrics", "metrics"):
        name, namespace = service_of(resource), str(resource.get("service.namespace", ""))
        for point, read in _data_points(metric):
            if point.flags & NO_VALUE:
                continue
            numbers = [*read(point)] if metric.name else []
            if not numbers:
                rejected += 1
                continue
            if (namespace, name) not in services:
                services.add((namespace, name))
                signals.append(
                    Resource(
                        kind=SERVICE_KIND, name=name, namespace=namespace, status="reporting",
                        state={"attributes": resource}, time=received,
                    )
                )  # fmt: skip
            labels = read_attributes(point.attributes)
            unit = "" if metric.unit == "1" else metric.unit
            signals += (
                Sample(
                    kind=SERVICE_KIND, name=name, namespace=namespace,
                    metric=number.name_metric(metric.name, labels), value=number.value,
                    unit="" if number.suffix == "_count" else unit,
                    time=read_time(point.time_unix_nano, received),
                )
                for number in numbers
            )  # fmt: skip
    return Read(signals, rejected)


def read_nothing(point: Any) -> Iterator[Number]:
    """Yield nothing, for points that are rejected."""
    return iter(())


def read_single(point: Any) -> Iterator[Number]:
    """Yield the number of a point of a gauge or sum."""
    value = optional(point, "as_int")
    if value is None:
        value = optional(point, "as_double")
    if (number := read_number(value)) is not None:
        yield Number(number)


def read_totals(point: Any) -> Iterator[Number]:
    """Yield the count and the sum of a distribution, and its extremes where they are known."""
    yield Number(float(point.count), "_count")
    for field in ("sum", "min", "max"):
        if (number := read_number(optional(point, field))) is not None:
            yield Number(number, f"_{field}")


def read_histogram(point: Any) -> Iterator[Number]:
    """Yield the totals of a histogram, and for each bound how many values are not above it."""
    yield from read_totals(point)
    counts, bounds = list(point.bucket_counts), list(point.explicit_bounds)
    if not counts or len(counts) != len(bounds) + 1 or len(counts) > MAX_BUCKETS:
        return
    if any(not isinstance(bound, int | float) or not math.isfinite(bound) for bound in bounds):
        return
    for bound, count in zip((*bounds, math.inf), itertools.accumulate(counts), strict=True):
        yield Number(float(count), bound=float(bound))


def read_exponential(point: Any) -> Iterator[Number]:
    """Yield the totals of an exponential histogram, and its buckets with their upper bounds."""
    yield from read_totals(point)
    counts = list(point.positive.bucket_counts)
    if point.negative.bucket_counts or len(counts) > MAX_BUCKETS or not -10 <= point.scale <= 20:
        return
    base = 2.0**-point.scale
    total = float(point.zero_count)
    for index, count in enumerate(counts):
        total += count
        exponent = (point.positive.offset + index + 1) * base
        if -1_000 < exponent < 1_000:
            yield Number(total, bound=2.0**exponent)
    yield Number(float(point.count), bound=math.inf)


def read_summary(point: Any) -> Iterator[Number]:
    """Yield the count, the sum and the quantiles of a summary."""
    yield Number(float(point.count), "_count")
    if (total := read_number(point.sum)) is not None:
        yield Number(total, "_sum")
    for each in point.quantile_values:
        if (number := read_number(each.value)) is not None:
            yield Number(number, labels={"quantile": f"{each.quantile:g}"})


POINTS: Final[Mapping[str, Callable[[Any], Iterator[Number]]]] = {
    "gauge": read_single,
    "sum": read_single,
    "histogram": read_histogram,
    "exponential_histogram": read_exponential,
    "summary": read_summary,
}


def _data_points(metric: Any) -> Iterator[tuple[Any, Callable[[Any], Iterator[Number]]]]:
    for field, read in POINTS.items():
        if (points := optional(metric, field)) is not None:
            is_delta = getattr(points, "aggregation_temporality", 0) in DELTA
            for point in points.data_points:
                yield point, read_nothing if is_delta else read
