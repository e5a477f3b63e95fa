"""A run of a processor in memory, and a check that it is a function of the log."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from almenara.bus import Record
from almenara.bus.codec import normalize
from almenara.clock import CLOCK
from almenara.hookspecs import Processor
from almenara.processors.fold import Fold
from almenara.signals import Event, Resource, Sample, Signal
from almenara.testing.clock import ManualClock
from almenara.testing.source_run import MemoryBus, PublishedSignals

SHOWN: Final = 3
"""Derived signals that an error shows."""


class ProcessorRun(PublishedSignals):
    """A processor over a log in memory, on a clock that the test controls.

        run = ProcessorRun(MyProcessor)
        run.feed(Event(...), Event(...))
        run.advance(60)
        assert [event.type for event in run.events] == ["my.alert"]

    `feed` and `advance` return what was derived. What the processor raised is in `failures`.
    """

    def __init__(self, create: Callable[[], Processor], *, clock: ManualClock | None = None):
        self.clock = clock or ManualClock()
        super().__init__(MemoryBus())
        self.log: list[Record] = []
        """The log that the processor reads: signals that were fed, and ticks."""
        self.failures: list[str] = []
        self._create = create
        self._stored: dict[str, bytes] = {}
        self._position = 0
        self._start()

    def _start(self) -> None:
        processor = self._create()
        self._name = getattr(processor, "name", "") or "processor"
        self._fold = Fold(processor, self._name, self._stored)

    def feed(self, *signals: Signal) -> list[Signal]:
        """Publish signals to the log and process them."""
        start = len(self.log)
        self.log += [
            Record(start + number, normalize(signal, "source"))
            for number, signal in enumerate(signals, 1)
        ]
        return self._process()

    def advance(self, seconds: float) -> list[Signal]:
        """Let time pass on the log, and call the timers that are due."""
        self.clock.shift(seconds)
        with self._time():
            tick = msgspec.structs.replace(self._fold.make_tick(), origin=self._name)
        self.log.append(Record(len(self.log) + 1, tick))
        return self._process()

    def restart(self, *, back: int = 0) -> None:
        """Start a new processor from the stored state.

        With `back`, the last records are processed again by the new one, from the state before
        them, as after a crash before their commit.
        """
        if back:
            self._rewind(len(self.log) - back)
        self._start()
        self._process()

    def _rewind(self, position: int) -> None:
        """Compute the state that the processor had at an earlier position."""
        fold = Fold(self._create(), self._name, {})
        self._stored = {}
        with self._time():
            for record in self.log[:position]:
                fold.accept(record)
        self._store(fold)
        self._position = position

    def _process(self) -> list[Signal]:
        derived: list[Signal] = []
        with self._time():
            for record in self.log[self._position :]:
                derived += self._fold.accept(record)
        self._position = len(self.log)
        self._store(self._fold)
        self.failures += self._fold.take_failures()
        self.bus.accept(derived, self._name)
        return derived

    def _store(self, fold: Fold) -> None:
        for key, value in fold.state.take_changes():
            if value is None:
                self._stored.pop(key, None)
            else:
                self._stored[key] = value

    @contextmanager
    def _time(self) -> Iterator[None]:
        token = CLOCK.set(self.clock)
        try:
            yield
        finally:
            CLOCK.reset(token)


def check_processor(create: Callable[[], Processor], log: Sequence[Signal | float]) -> None:
    """Check that a processor derives the same of a log wherever it is restarted.

    `log` has signals, and numbers for seconds that pass. Raises `AssertionError` where a restart
    after any record, with or without a repetition of the records before it, changes what is
    derived.
    """
    expected = _derive(create, log, 0, 0)
    for position in range(1, len(log) + 1):
        for back in (0, min(2, position)):
            derived = _derive(create, log, position, back)
            if derived != expected:
                raise AssertionError(
                    f"restarted after record {position}, {back} records repeated: derived"
                    f" {_show(derived, expected)} instead of {_show(expected, derived)}"
                )


def _derive(
    create: Callable[[], Processor], log: Sequence[Signal | float], restart_at: int, back: int
) -> list[bytes]:
    """Return the identity and content of everything that is in the log at the end."""
    run = ProcessorRun(create)
    for number, entry in enumerate(log, 1):
        if isinstance(entry, Event | Resource | Sample):
            run.feed(entry)
        else:
            run.advance(entry)
        if number == restart_at:
            run.restart(back=back)
    events = sorted(msgspec.json.encode(event) for event in run.events)
    resources = sorted(msgspec.json.encode(resource) for resource in run.resources.values())
    return events + resources


def _show(some: Sequence[bytes], others: Sequence[bytes]) -> str:
    different = [text.decode() for text in some if text not in others]
    return "; ".join(different[:SHOWN]) or "nothing"
