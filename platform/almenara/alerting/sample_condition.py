"""Conditions about samples: thresholds on the samples of each series of an alert."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from almenara.alerting.conditions import (
    Condition,
    Verdict,
    is_beyond,
    make_source_test,
    make_test,
    show_number,
)
from almenara.alerting.model import Alert, Place, Window, make_place_key, place_of
from almenara.config.alert_rules import SampleCondition
from almenara.signals import Sample, Signal
from almenara.units import SECOND

MAX_SAMPLES: Final = 1_000
"""Samples of all series of an alert that are stored, the newest of each."""
MIN_SAMPLES: Final = 2
"""Samples of a series that are stored, however many series there are: a rate needs them."""
MAX_SERIES: Final = 1_000
"""Series of an alert."""

Series = dict[str, Window]


class SampleThreshold(Condition):
    """A threshold on the samples of a metric.

    The samples of each resource are a series. An alert about several aggregates each of them by
    itself, as a counter must not be compared with that of another resource, and then their results.
    A series without samples for `no_data` neither raises nor resolves an alert.
    """

    def __init__(self, settings: SampleCondition) -> None:
        self.settings = settings
        self.samples = (settings.metric,)
        self.measured = (settings.kind or ">",)
        self._kind, self._name = make_test(settings.kind), make_test(settings.name)
        self._source, self._namespace = (
            make_source_test(settings.source), make_test(settings.namespace),
        )  # fmt: skip
        self._span = int(settings.within * SECOND)
        self._no_data = int(settings.no_data * SECOND)
        self._threshold = settings.above if settings.above is not None else settings.below
        self._is_last = settings.aggregation == "last"
        self.has_memory = not self._is_last

    def selects(self, signal: Signal) -> bool:
        return (
            isinstance(signal, Sample)
            and self._kind(signal.kind)
            and self._name(signal.name)
            and self._namespace(signal.namespace)
            and self._source(signal.origin)
        )

    def observe(self, signal: Signal, alert: Alert, time: int) -> Verdict:
        assert isinstance(signal, Sample)  # noqa: S101 # nosec B101 # narrows the type
        series, key = self._read_series(alert), make_series_key(signal)
        if self._is_last:
            return self._observe_last(signal, alert, series, time)
        window = sorted([*series.get(key, ()), (time, float(signal.value))])
        start = window[-1][0] - self._span
        limit = max(MAX_SAMPLES // max(len(series), 1), MIN_SAMPLES)
        series[key] = [entry for entry in window if entry[0] > start][-limit:]
        verdict = self._judge(alert, series, time)
        verdict.counts = time > start
        return verdict

    def _observe_last(self, signal: Sample, alert: Alert, series: Series, time: int) -> Verdict:
        """Only samples beyond the limit are stored: no others can hold."""
        key, value = make_series_key(signal), float(signal.value)
        is_own = key in series or key == subject_key(alert)
        is_late = key in series and time < series[key][-1][0]
        holds = is_beyond(value, self.settings) and not is_late
        if holds:
            series[key] = [(time, value)]
        elif not is_late:
            series.pop(key, None)
        verdict = self._judge(alert, series, time)
        if holds or (is_own and not verdict.holds):
            verdict.value = value
        verdict.counts = holds
        return verdict

    def discard(self, alert: Alert, place: Place, time: int) -> Verdict:
        prefix = f"{make_place_key(place)}/"
        series = self._read_series(alert)
        remaining = {key: series[key] for key in series if not key.startswith(prefix)}
        verdict = self._judge(alert, remaining, time)
        verdict.stale_at = alert.deadlines.get("stale")
        return verdict

    def _judge(self, alert: Alert, series: Series, time: int) -> Verdict:
        """Evaluate the series of an alert and store those that still matter.

        Raises `ValueError` where there are too many.
        """
        newest = max([time, *(window[-1][0] for window in series.values())])
        fresh = {
            key: window for key, window in series.items() if window[-1][0] > newest - self._no_data
        }
        value = self._combine(fresh, alert)
        holds, is_known = self._holds(value), value is not None or self._is_last
        if not holds and alert.holds and len(fresh) < len(series):
            # Would it hold with the last samples of the missing series?
            is_known = is_known and not self._holds(self._combine(series, alert))
        if not is_known:
            holds = alert.holds
        is_full = len(series) > MAX_SERIES
        alert.window, alert.series = [], series if holds and not is_full else fresh
        if len(alert.series) > MAX_SERIES:
            raise ValueError(
                f"an alert has more than {MAX_SERIES:,} series; name more fields in group_by, or"
                " leave it out for an alert for each resource"
            )
        return Verdict(
            holds=holds,
            is_known=is_known,
            counts=False,
            value=value if is_known and value is not None else alert.value,
            threshold=self._threshold,
            stale_at=newest + self._no_data,
        )

    def _holds(self, value: float | None) -> bool:
        return value is not None and is_beyond(value, self.settings)

    def _combine(self, series: Series, alert: Alert) -> float | None:
        """Return what is compared with the limit; None where there are too few samples."""
        name = self.settings.aggregation
        if self._is_last and (subject := subject_key(alert)) in series:
            # The texts of the alert are about this one.
            return series[subject][-1][1]
        values = [
            value for window in series.values() if (value := aggregate(name, window)) is not None
        ]
        if not values:
            return None
        if self._is_last:
            return max(values) if self.settings.above is not None else min(values)
        return COMBINATIONS[name](values)

    def _read_series(self, alert: Alert) -> Series:
        """Return a copy of the series of an alert."""
        if not alert.window:
            return dict(alert.series)
        # Earlier versions stored the samples of all series together. What is mixed leaves the
        # window soon, but a rate must not be calculated from it.
        is_mixed = "name" not in alert.group and self.settings.aggregation == "rate"
        return {} if is_mixed else {subject_key(alert): alert.window}

    def describe(self, alert: Alert) -> str:
        settings = self.settings
        name = " ".join(filter(None, (alert.group.get("namespace"), alert.group.get("name"))))
        what = settings.metric if self._is_last else (
            f"{settings.aggregation} of {settings.metric} in {settings.within:g} s"
        )  # fmt: skip
        bound = "above" if settings.above is not None else "below"
        limit = show_number(alert.threshold)
        return f"{what} of {name} is {show_number(alert.value)}, {bound} {limit}"


def make_series_key(sample: Sample) -> str:
    """Return what identifies the series of a sample within an alert."""
    return f"{make_place_key((sample.origin, *sample.key))}/{sample.metric}"


def subject_key(alert: Alert) -> str:
    """Return the key of the series that the texts of an alert are about."""
    place = place_of(alert)
    return "" if place is None else f"{make_place_key(place)}/{alert.metric}"


def average(values: Iterable[float]) -> float:
    """Return the average of some values."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def calculate_rate(window: Sequence[tuple[int, float]]) -> float | None:
    """Return the increase per second of a counter; None where it has too few samples."""
    seconds = (window[-1][0] - window[0][0]) / SECOND
    if seconds <= 0:
        return None
    # A counter that restarts counts from zero.
    steps = itertools.pairwise(value for _, value in window)
    return sum(after - before if after >= before else after for before, after in steps) / seconds


COMBINATIONS: Final[dict[str, Callable[[list[float]], float]]] = {
    "avg": average,
    "min": min,
    "max": max,
    "sum": sum,
    "rate": sum,
}
"""By the name of an aggregation: the result for an alert from those of its series."""


def aggregate(name: str, window: Sequence[tuple[int, float]]) -> float | None:
    """Return an aggregation of times in microseconds and values of one series; None where it has
    too few."""
    if name == "rate":
        return calculate_rate(window)
    if name == "last":
        return window[-1][1]
    return COMBINATIONS[name]([value for _, value in window])
