from collections.abc import Iterable

import pytest

from almenara.hookspecs import Step, Subscription
from almenara.sdk import add_to_window, join
from almenara.signals import Event, Resource, Signal
from almenara.testing import ProcessorRun, check_processor

START = 1_767_225_600_000_000
SECOND = 1_000_000


def error(second: float, number: int = 0) -> Event:
    at = START + int(second * SECOND)
    return Event(id=f"{second}-{number}", source="app", type="app.error", time=at)


class ErrorRate:
    """Reports three errors within ten seconds, until none came for ten seconds."""

    subscription = Subscription(events=("app.error",))

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        window = add_to_window(step, "errors", 10)
        step.set_timer("quiet", step.time + 10 * SECOND)
        if window.count >= 3 and not step.state.get("high", bool):
            step.state.set("high", True)
            yield Event(id=step.event_id("high"), source="rate", type="rate.high", time=step.time)

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        if step.state.get("high", bool):
            step.state.delete("high")
            yield Event(id=step.event_id("low"), source="rate", type="rate.low", time=step.time)


LOG: list[Signal | float] = [error(0), 5.0, error(4), error(12), 9.0, error(13), error(11), 60.0]


def test_window_counts_late_events_at_their_time() -> None:
    run = ProcessorRun(ErrorRate)
    run.advance(20)
    run.feed(error(0), error(4), error(12))
    assert run.events == []
    run.feed(error(11), error(1))
    assert [event.type for event in run.events] == ["rate.high"]


def test_timer_is_called_at_its_time_however_late_the_tick() -> None:
    run = ProcessorRun(ErrorRate)
    run.advance(20)
    run.feed(error(1), error(2), error(3))
    run.advance(500)
    assert [(event.type, event.time) for event in run.events] == [
        ("rate.high", START + 3 * SECOND),
        ("rate.low", START + 13 * SECOND),
    ]


def test_processor_derives_the_same_wherever_it_is_restarted() -> None:
    check_processor(ErrorRate, LOG)


def test_check_processor_refuses_state_outside_of_the_log() -> None:
    class Forgetful(ErrorRate):
        def __init__(self) -> None:
            self.count = 0

        def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
            self.count += 1
            yield Event(id=f"{self.count}", source="rate", type="count", time=step.time)

    with pytest.raises(AssertionError, match="restarted after record 1"):
        check_processor(Forgetful, LOG)


def test_signal_of_the_future_is_processed_as_of_the_present() -> None:
    run = ProcessorRun(ErrorRate)
    run.feed(error(86_400), error(86_401), error(86_402))
    assert [event.time for event in run.events] == [START]
    assert [event.type for event in run.advance(11)] == ["rate.low"]  # type: ignore[union-attr]


def test_failing_call_changes_nothing_and_stops_nothing() -> None:
    class Failing(ErrorRate):
        def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
            yield from super().on_signal(signal, step)
            if signal.time == START + 2 * SECOND:
                step.state.set("high", True)
                raise RuntimeError("no")

    run = ProcessorRun(Failing)
    run.advance(20)
    run.feed(error(1), error(2), error(3))
    assert run.events == []
    assert run.failures == ["Event '2-0': RuntimeError: no"]
    run.feed(error(4))
    assert [event.type for event in run.events] == ["rate.high"]


def test_join_returns_all_parts_in_any_order() -> None:
    class Requests:
        subscription = Subscription(events=("request.>",))

        def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
            assert isinstance(signal, Event)
            parts = {"request.start", "request.end"}
            key = signal.correlation or ""
            joined = join(step, key, signal.type, signal.time, parts)
            if joined is not None:
                took = joined["request.end"] - joined["request.start"]
                yield Resource(kind="request", name=key, state={"took": took})

    def part(kind: str, key: str, time: int) -> Event:
        return Event(id=f"{kind}{key}", source="s", type=kind, time=time, correlation=key)

    log: list[Signal | float] = [
        part("request.end", "a", 9), part("request.start", "b", 1),
        part("request.start", "a", 2), part("request.end", "b", 5),
    ]  # fmt: skip
    run = ProcessorRun(Requests)
    run.feed(*(entry for entry in log if isinstance(entry, Event)))
    assert {name: resource.state["took"] for name, resource in run.resources.items()} == {
        "a": 7, "b": 4,
    }  # fmt: skip


def test_processor_does_not_read_its_own_signals() -> None:
    class Echo:
        name = "echo"
        subscription = Subscription(events=(">",), resources=(">",))

        def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
            yield Event(id=step.event_id(), source="echo", type="echo", time=step.time)

    run = ProcessorRun(Echo)
    run.feed(*run.feed(error(1)))
    run.feed(Event(id="1", source="echo", type="echo", time=1, origin="echo"))
    assert len(run.events) == 2
