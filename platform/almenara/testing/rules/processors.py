"""Rules about the processors of a plugin."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import Processor, Subscription
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.testing.processor_run import ProcessorRun, check_processor
from almenara.testing.rules.subject import Skip, Subject, memory_context
from almenara.units import MINUTE, SECOND

START: Final = 1_767_225_600 * SECOND
MAX_NAMES: Final = 6
"""Names of a subscription that are examined, the first ones."""
LONG: Final = 7200.0
"""Seconds at the end of a log, in which timers are due."""
HOSTILE: Final = "<b>\u202e\x00" + "x" * 300

Log = Sequence[Signal | float]


async def names_its_processors(subject: Subject) -> None:
    names = [name for name, _ in require_processors(subject)]
    for name in names:
        if names.count(name) > 1:
            raise AssertionError(f"two of its processors are named {name!r}; names must be unique")


async def derives_the_same_wherever_it_is_restarted(subject: Subject) -> None:
    for name, create in require_processors(subject):
        _check(name, create, make_log(create().subscription))


async def derives_the_same_of_late_and_repeated_signals(subject: Subject) -> None:
    for name, create in require_processors(subject):
        _check(name, create, make_late_log(create().subscription))


async def processes_every_signal(subject: Subject) -> None:
    for name, create in require_processors(subject):
        run = ProcessorRun(create)
        subscription = create().subscription
        for entry in (*make_log(subscription), *make_hostile_signals(subscription)):
            run.advance(entry) if isinstance(entry, float) else run.feed(entry)
        if run.failures:
            raise AssertionError(
                f"processor {name} raised for {run.failures[0]}; signals have any data, also none:"
                " test what it reads, and ignore what it cannot use"
            )


def require_processors(subject: Subject) -> Iterator[tuple[str, Callable[[], Processor]]]:
    """The name of each processor, and what creates it again. Raises `Skip`."""
    with memory_context() as context:
        settings = subject.settings()

        def create_all() -> list[Processor]:
            return subject.plugins.hooks.processors(subject.name, settings, context)

        processors = create_all()
        if not processors:
            raise Skip("it has no processor with these settings")
        for place, processor in enumerate(processors):
            name = getattr(processor, "name", "") or subject.name
            yield name, lambda place=place: create_all()[place]  # type: ignore[misc]


def _check(name: str, create: Callable[[], Processor], log: Log) -> None:
    try:
        check_processor(create, log)
    except AssertionError as error:
        raise AssertionError(
            f"processor {name} is not a function of the log: {error}; keep what it remembers in"
            " step.state, take the time from step.time, and ids from step.event_id"
        ) from None


def make_log(subscription: Subscription) -> Log:
    """Return signals of everything that a subscription reads, with time that passes."""
    log: list[Signal | float] = []
    for round_number in range(3):
        log += _signals(subscription, START + round_number * MINUTE, round_number)
        log.append(60.0)
    return [*log, LONG]


def make_late_log(subscription: Subscription) -> Log:
    """Return a log in which resources and samples are repeated, and some signals are late."""
    early = _signals(subscription, START, 0)
    repeated = [signal for signal in early if not isinstance(signal, Event)]
    late = _signals(subscription, START - 10 * MINUTE, 7)
    return [*early, *repeated, 60.0, *late, *repeated, 60.0, *repeated, LONG]


def make_hostile_signals(subscription: Subscription) -> list[Signal]:
    """Return signals with data that a careless processor does not expect."""
    bodies: tuple[Any, ...] = (None, [], "text", 3, {HOSTILE: HOSTILE}, {"value": {"value": None}})
    signals: list[Signal] = []
    for place, body in enumerate(bodies):
        for signal in _signals(subscription, START + 10 * MINUTE, 20 + place):
            if isinstance(signal, Event):
                changed = msgspec.structs.replace(signal, data=body, subject=HOSTILE)
                signals.append(changed)
            elif isinstance(signal, Resource):
                state = body if isinstance(body, dict) else {}
                signals.append(msgspec.structs.replace(signal, state=state, deleted=place > 3))
    return signals


def _signals(subscription: Subscription, time: int, number: int) -> list[Signal]:
    """Two things of each name, one of which fails in every second round."""
    signals: list[Signal] = []
    for place, subject in enumerate(("first", "second")):
        is_failing = (number + place) % 2 == 0
        severity = Severity.ERROR if is_failing else Severity.INFO
        moment = time + place * SECOND
        signals += [
            Event(
                id=f"{kind}-{subject}-{number}", source="conformance", type=kind, time=moment,
                subject=subject, severity=severity, correlation=subject,
                data={"value": number, "ok": not is_failing}, origin="conformance",
            )
            for kind in _names(subscription.events)
        ]  # fmt: skip
        signals += [
            Resource(
                kind=kind, namespace="conformance", name=subject, time=moment, severity=severity,
                status="failed" if is_failing else "ok", origin="conformance",
            )
            for kind in _names(subscription.resources)
        ]  # fmt: skip
        signals += [
            Sample(
                kind="conformance", name=subject, metric=metric, value=float(number), time=moment,
                origin="conformance",
            )
            for metric in _names(subscription.samples)
        ]  # fmt: skip
    return signals


def _names(patterns: Sequence[str]) -> list[str]:
    """A name for each pattern: `orders.a.a` for `orders.*.>`."""
    return [
        text if compile_pattern(text) is None else text.replace("*", "a").replace(">", "a")
        for text in patterns[:MAX_NAMES]
    ]
