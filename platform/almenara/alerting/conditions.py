"""Conditions of rules: which signals they select, and whether they hold. Here are those about
events, and what all have in common."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from almenara.alerting.model import Alert, Place
from almenara.alerting.signals import read_path, show_value
from almenara.config.alert_rules import (
    AbsenceCondition,
    EventCondition,
    ResourceCondition,
    SampleCondition,
)
from almenara.patterns import compile_pattern
from almenara.scope import namespace_of
from almenara.sdk.calendar import Schedule
from almenara.signals import Event, Signal, parse_severity
from almenara.units import SECOND


class Verdict(msgspec.Struct):
    """Whether a condition holds after a signal, and until when that is known."""

    holds: bool
    is_known: bool = True
    """Whether data proves it; otherwise it is assumed to be as before."""
    counts: bool = True
    """Whether the signal is part of it, so that the alert is about what the signal is about."""
    value: float | str | None = None
    threshold: float | str | None = None
    until: int | None = None
    """When it ends without a further signal."""
    absent_at: int | None = None
    """When it begins without a further signal."""
    stale_at: int | None = None
    """When it is unknown without a further signal."""

    @property
    def waits(self) -> bool:
        """Whether it changes without a further signal."""
        return any(at is not None for at in (self.until, self.absent_at, self.stale_at))


class Condition:
    """A compiled condition."""

    events: tuple[str, ...] = ()
    """Types of events that it reads; kinds of resources and metrics of samples likewise."""
    resources: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    """Kinds of resources whose samples it reads, or patterns of them."""
    has_memory = False
    """Whether a group is stored while the condition does not hold."""

    def selects(self, signal: Signal) -> bool:
        """Whether a signal that it reads matters to it."""
        raise NotImplementedError

    def observe(self, signal: Signal, alert: Alert, time: int) -> Verdict:
        """Evaluate it with a signal; it may change the window of the alert."""
        raise NotImplementedError

    def expire(self, alert: Alert, time: int) -> Verdict:
        """Evaluate it at the end that an earlier verdict has set."""
        return Verdict(holds=alert.holds, value=alert.value, threshold=alert.threshold)

    def discard(self, alert: Alert, place: Place, time: int) -> Verdict:
        """Evaluate it without a resource that was deleted, or belongs to another group now."""
        return Verdict(holds=alert.holds, value=alert.value, threshold=alert.threshold)

    def describe(self, alert: Alert) -> str:
        """Why it holds, in one line."""
        raise NotImplementedError


def make_test(pattern: str) -> Callable[[str], bool]:
    """Return whether a text matches a pattern; the empty pattern matches all."""
    if not pattern:
        return lambda text: True
    expression = compile_pattern(pattern)
    if expression is None:
        return lambda text: text == pattern
    return lambda text: expression.fullmatch(text) is not None


def make_any_test(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a text matches any of some patterns."""
    tests = [make_test(pattern) for pattern in patterns]
    return lambda text: any(test(text) for test in tests)


def make_source_test(pattern: str) -> Callable[[str], bool]:
    """Return whether an origin is that of a source, or matches a pattern."""
    if not pattern:
        return lambda origin: True
    exact, below = make_test(pattern), make_test(f"{pattern}/>")
    return lambda origin: exact(origin) or below(origin)


class Events(Condition):
    """A number of events within a window."""

    def __init__(self, settings: EventCondition) -> None:
        self.settings = settings
        self.events = (*settings.types, *settings.until)
        self._is_counted = make_any_test(settings.types)
        self._is_end = make_any_test(settings.until) if settings.until else lambda _: False
        self._severity = parse_severity(settings.severity)
        self._source = make_source_test(settings.source)
        self._subject, self._namespace = make_test(settings.subject), make_test(settings.namespace)
        self._data = [(path, make_test(value)) for path, value in settings.data.items()]
        self._span = int(settings.within * SECOND)
        self.has_memory = settings.count > 1

    def selects(self, signal: Signal) -> bool:
        if not isinstance(signal, Event):
            return False
        if not (
            self._source(signal.origin)
            and self._subject(signal.subject)
            and self._namespace(namespace_of(signal))
        ):
            return False
        if self._is_end(signal.type):
            return True
        return signal.severity >= self._severity and all(
            test(show_value(read_path(signal.data, path))) for path, test in self._data
        )

    def observe(self, signal: Signal, alert: Alert, time: int) -> Verdict:
        assert isinstance(signal, Event)  # noqa: S101 # nosec B101 # narrows the type
        needed = self.settings.count
        if self._is_end(signal.type) and not self._is_counted(signal.type):
            alert.window = []
            return self._judge(alert, counts=False)
        window = sorted([*alert.window, (time, 1.0)])
        start = window[-1][0] - self._span
        alert.window = [entry for entry in window if entry[0] > start][-max(needed, 100) :]
        return self._judge(alert, counts=time > start)

    def expire(self, alert: Alert, time: int) -> Verdict:
        alert.window = [entry for entry in alert.window if entry[0] > time - self._span]
        return self._judge(alert)

    def _judge(self, alert: Alert, *, counts: bool = True) -> Verdict:
        needed, window = self.settings.count, alert.window
        holds = len(window) >= needed
        until = None
        if window:
            until = window[-needed if holds else -1][0] + self._span
        return Verdict(
            holds=holds,
            counts=counts,
            value=float(len(window)),
            threshold=float(needed),
            until=until,
        )

    def describe(self, alert: Alert) -> str:
        count = len(alert.window)
        names = ", ".join(self.settings.types)
        return f"{count} events {names} in {self.settings.within:g} s"


class Absence(Condition):
    """No event for some time. Raises `ValueError` for a schedule that is wrong."""

    has_memory = True

    def __init__(self, settings: AbsenceCondition) -> None:
        self.settings = settings
        self.events = tuple(settings.types)
        self._source, self._subject = (
            make_source_test(settings.source), make_test(settings.subject),
        )  # fmt: skip
        self._span = int(settings.within * SECOND)
        self._schedule = Schedule(settings.schedule, settings.zone) if settings.schedule else None

    def selects(self, signal: Signal) -> bool:
        return (
            isinstance(signal, Event)
            and self._source(signal.origin)
            and self._subject(signal.subject)
        )

    def observe(self, signal: Signal, alert: Alert, time: int) -> Verdict:
        newest = max(time, alert.window[-1][0] if alert.window else 0)
        alert.window = [(newest, 1.0)]
        return self.expect(newest)

    def expect(self, since: int) -> Verdict:
        """Return the verdict of a moment with an event, or at which waiting for one begins."""
        expected = since if self._schedule is None else self._schedule.next_after(since)
        return Verdict(holds=False, threshold=self.settings.within, absent_at=expected + self._span)

    def describe(self, alert: Alert) -> str:
        what = ", ".join(self.settings.types)
        what = "event" if what == ">" else what
        source = f" of {self.settings.source}" if self.settings.source else ""
        within = f"{self.settings.within:g} s"
        if self._schedule is None:
            return f"no {what}{source} for {within}"
        return f"no {what}{source} {within} after {self.settings.schedule} {self.settings.zone}"


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be compared."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_beyond(value: float, settings: ResourceCondition | SampleCondition) -> bool:
    """Whether a value is beyond the limits of a condition."""
    return (settings.above is None or value > settings.above) and (
        settings.below is None or value < settings.below
    )


def show_number(value: float | str | None) -> str:
    """Return a value for people."""
    if not isinstance(value, int | float):
        return value or ""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"
