"""Timers of processors: those that fail, and those that are set again and again."""

from collections.abc import Iterable

from almenara.hookspecs import Step, Subscription
from almenara.processors.state import StoredState
from almenara.signals import Event, Signal
from almenara.testing import ProcessorRun
from almenara.units import SECOND


class Reminder:
    """Sets a timer for each event, and fails at the first one."""

    name = "reminder"
    subscription = Subscription(events=("start",))

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        assert isinstance(signal, Event)
        step.set_timer(signal.subject, step.time + 10 * SECOND)
        return ()

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        if key == "a":
            raise ValueError("no reminder of a")
        yield Event(id=step.event_id(), source="reminder", type=f"{key}.due", time=step.time)


def test_timer_that_fails_is_skipped_and_stops_no_other() -> None:
    run = ProcessorRun(Reminder)
    now = run.clock.now()
    run.feed(*(Event(id=each, source="s", type="start", subject=each, time=now) for each in "ab"))
    run.advance(11)
    assert [event.type for event in run.events] == ["b.due"]
    assert run.failures == ["timer a: ValueError: no reminder of a"]
    run.restart()
    run.advance(11)
    assert len(run.failures) == 1


def test_timer_that_is_postponed_takes_no_further_memory() -> None:
    state = StoredState({})
    state.set_timer("first", 0)
    for moment in range(1, 20_000):
        state.set_timer("postponed", moment)
    assert len(state._timers) < 3_000
    assert state.next_timer == (0, "first")
    state.cancel_timer("first")
    assert state.next_timer == (19_999, "postponed")
