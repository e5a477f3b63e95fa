"""The fold of one processor over the log: from state and signal to state and derived signals.

It is synchronous and does no I/O, so that the running platform, a replay of history and a test in
memory compute the same.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from almenara.bus import Record
from almenara.bus.validation import check_signal, describe_signal
from almenara.clock import now
from almenara.errors import describe_error
from almenara.hookspecs import Processor
from almenara.processors.state import StateError, StoredState
from almenara.processors.subscription import Matcher
from almenara.signals import Event, Resource, Sample, Signal
from almenara.units import MINUTE, SECOND

TICK_KIND: Final = "almenara.processor"
MAX_CLOCK_SKEW: Final = 5 * MINUTE
TICK_METRIC: Final = "timer_lag"
MAX_TIMERS_PER_TICK: Final = 100_000
"""Timers that one tick may call; a processor that sets timers into the past ends with an error."""


class ProcessorStep:
    """`hookspecs.Step`; `cause` is what ids of derived events are made from."""

    __slots__ = ("cause", "sequence", "state", "time")

    def __init__(self, state: StoredState, sequence: int, time: int, cause: str) -> None:
        self.state, self.sequence, self.time, self.cause = state, sequence, time, cause

    def event_id(self, *parts: str) -> str:
        return ":".join((self.cause, *parts))

    def set_timer(self, key: str, at: int) -> None:
        self.state.set_timer(key, at)

    def cancel_timer(self, key: str) -> None:
        self.state.cancel_timer(key)


class Fold:
    """A processor with its state; `accept` records in the order of the log."""

    def __init__(self, processor: Processor, name: str, stored: Mapping[str, bytes]) -> None:
        self.processor, self.name = processor, name
        self.state = StoredState(stored)
        self.failures: list[str] = []
        """Why signals and timers were skipped, since `take_failures`."""
        self._matcher = Matcher(processor.subscription, name)

    def is_tick(self, signal: Signal) -> bool:
        """Whether a signal is a tick of this processor."""
        return (
            isinstance(signal, Sample)
            and signal.kind == TICK_KIND
            and signal.metric == TICK_METRIC
            and signal.name == self.name
            and signal.origin == self.name
        )

    def make_tick(self) -> Sample:
        """Return the sample that lets time pass on the log, up to the present.

        Its value is for how many seconds the first timer has been due.
        """
        moment, timer = now(), self.state.next_timer
        lag = 0.0 if timer is None else max(moment - timer[0], 0) / SECOND
        return Sample(
            kind=TICK_KIND, name=self.name, metric=TICK_METRIC, value=lag, unit="s", time=moment
        )

    def accept(self, record: Record) -> list[Signal]:
        """Return what is derived from a record; nothing where the processor raises."""
        signal = record.signal
        if self._matcher.matches(signal):
            moment = _plausible_time(signal.time)
            step = ProcessorStep(self.state, record.sequence, moment, str(record.sequence))
            return self._run(
                describe_signal(signal), self.processor.on_signal, _with_decoded_data(signal), step
            )
        if self.is_tick(signal):
            return self.advance(signal.time, record.sequence)
        return []

    def advance(self, moment: int, sequence: int) -> list[Signal]:
        """Call the timers that are due at a moment, in their order, and return what they derive.

        Raises `StateError` where timers are set into the past without an end.
        """
        derived: list[Signal] = []
        for _ in range(MAX_TIMERS_PER_TICK):
            timer = self.state.next_timer
            if timer is None or timer[0] > moment:
                return derived
            at, key = timer
            self.state.cancel_timer(key)
            # Where the call fails, the timer is skipped: it would be due again at once, for ever.
            self.state.accept()
            step = ProcessorStep(self.state, sequence, at, f"timer:{at}:{key}")
            call = self.processor.on_timer  # type: ignore[attr-defined]
            derived += self._run(f"timer {key}", call, key, step)
        raise StateError(
            f"more than {MAX_TIMERS_PER_TICK:,} timers were due at once; set timers into the future"
        )

    def _run(self, cause: str, call: Any, *arguments: Any) -> list[Signal]:
        # The processor is a function: what fails once fails again, so the signal is skipped. A stop
        # at it would keep all that follows from being processed.
        try:
            derived = [*_check_derived(call(*arguments))]
        except Exception as error:
            self.state.rollback()
            self.failures.append(f"{cause}: {describe_error(error, with_type=True)}")
            return []
        except BaseException:
            self.state.rollback()
            raise
        self.state.accept()
        return derived

    def take_failures(self) -> list[str]:
        """Return why signals and timers were skipped since the last call of this."""
        failures, self.failures = self.failures, []
        return failures


def _plausible_time(time: int) -> int:
    """The time of a signal, or the present where its clock is far ahead: what it starts would last
    until then."""
    moment = now()
    return time if time <= moment + MAX_CLOCK_SKEW else moment


def _with_decoded_data(signal: Signal) -> Signal:
    """The bus holds data as JSON text; a processor reads values."""
    if isinstance(signal, Event) and isinstance(signal.data, msgspec.Raw):
        return msgspec.structs.replace(signal, data=msgspec.json.decode(signal.data))
    return signal


def _check_derived(result: Iterable[Signal] | None) -> Iterable[Signal]:
    for signal in result or ():
        if not isinstance(signal, Event | Resource | Sample):
            raise TypeError(
                f"a processor derives Events, Resources and Samples, and returned"
                f" {type(signal).__name__}"
            )
        check_signal(signal)
        yield signal
