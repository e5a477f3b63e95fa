"""A stalled consumer is one until its backlog falls, and each stall and recovery is an event."""

from pathlib import Path
from typing import Any

import pytest
from nats.js.api import ConsumerInfo

from almenara.signals import Event, Resource, Severity, now
from almenara.testing.source_run import MemoryContext
from almenara.units import SECOND
from almenara_nats import consumer_health
from almenara_nats.consumer_health import ConsumerHealth
from almenara_nats.monitor import read_figures


class Clock:
    """The monotonic clock of the module."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(consumer_health, "time", clock)
    return clock


def observe(
    health: ConsumerHealth, delivered: int, pending: int, sequence: int | None = None, **more: Any
) -> Resource:
    sequence = delivered if sequence is None else sequence
    info = ConsumerInfo.from_response({
        "name": "workers", "stream_name": "S", "created": "2026-01-01T00:00:00Z",
        "config": {"ack_policy": "explicit", "durable_name": "workers"},
        "delivered": {"consumer_seq": delivered, "stream_seq": sequence},
        "ack_floor": {"consumer_seq": delivered, "stream_seq": delivered},
        "num_pending": pending, "num_ack_pending": 0, **more,
    })  # fmt: skip
    return health.describe("S", info, read_figures(info))


def take_events(health: ConsumerHealth) -> list[Event]:
    events = list(health.events)
    health.events.clear()
    return events


def test_stalled_consumer_stays_stalled_until_its_backlog_falls(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    assert observe(health, 1, 100).status == "ok"
    clock.seconds += 60
    stalled = observe(health, 1, 120)
    assert (stalled.status, stalled.severity) == ("stalled", Severity.WARN)
    (event,) = take_events(health)
    assert (event.type, event.subject, event.severity) == (
        "nats.consumer.stalled", "workers", Severity.WARN,
    )  # fmt: skip
    assert event.data["since"] == stalled.state["since"]
    # One message is delivered again, and more wait than before.
    clock.seconds += 1
    assert observe(health, 2, 500).status == "stalled"
    clock.seconds += 1
    assert observe(health, 12, 460).status == "stalled"
    assert take_events(health) == []
    clock.seconds += 1
    assert observe(health, 60, 450).status == "ok"
    (event,) = take_events(health)
    assert (event.type, event.severity) == ("nats.consumer.recovered", Severity.INFO)


@pytest.mark.parametrize(
    ("config", "more", "status"),
    [
        ({"deliver_subject": "_INBOX.x"}, {"push_bound": False}, "no client"),
        ({"deliver_subject": "_INBOX.x"}, {"push_bound": True}, "stalled"),
        ({}, {"num_waiting": 0}, "no client"),
        ({}, {"num_waiting": 1}, "stalled"),
        ({"durable_name": "workers"}, {"num_waiting": 0}, "stalled"),
        (
            {"durable_name": "workers", "deliver_subject": "_INBOX.x"}, {"push_bound": False},
            "stalled",
        ),
    ],
)  # fmt: skip
def test_ephemeral_consumer_whose_client_has_ended_is_not_stalled(
    clock: Clock, config: dict[str, str], more: dict[str, int], status: str
) -> None:
    health = ConsumerHealth(60.0)
    more = {"config": {"ack_policy": "none", **config}, **more}
    assert observe(health, 1, 100, **more).status == "ok"
    clock.seconds += 60
    consumer = observe(health, 1, 100, **more)
    is_stalled = status == "stalled"
    assert consumer.status == status
    assert consumer.severity == (Severity.WARN if is_stalled else Severity.INFO)
    assert bool(take_events(health)) is is_stalled


def test_each_stall_is_an_event_of_its_own(clock: Clock) -> None:
    health, events = ConsumerHealth(60.0), []
    for round_number in range(2):
        observe(health, round_number * 10, 1)
        clock.seconds += 60
        observe(health, round_number * 10, 1)
        clock.seconds += 1
        observe(health, round_number * 10 + 1, 0)
        events += take_events(health)
    assert [event.type.rpartition(".")[2] for event in events] == ["stalled", "recovered"] * 2
    assert len({event.id for event in events}) == 4


def test_paused_consumer_is_not_stalled(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    observe(health, 1, 5, paused=True)
    clock.seconds += 600
    assert observe(health, 1, 5, paused=True).status == "paused"
    assert take_events(health) == []


def test_resumed_consumer_has_time_for_its_first_delivery(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    observe(health, 1, 5)
    for _ in range(60):
        clock.seconds += 60
        assert observe(health, 1, 5, paused=True).status == "paused"
    clock.seconds += 10
    assert observe(health, 1, 5).status == "ok"
    clock.seconds += 40
    assert observe(health, 1, 5).status == "ok"
    assert take_events(health) == []
    clock.seconds += 10
    assert observe(health, 1, 5).status == "stalled"
    (event,) = take_events(health)
    assert now() - event.data["since"] == pytest.approx(60 * SECOND, abs=5 * SECOND)


def test_pause_ends_a_stall(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    observe(health, 1, 5)
    clock.seconds += 60
    assert observe(health, 1, 5).status == "stalled"
    assert observe(health, 1, 5, paused=True).status == "paused"
    clock.seconds += 1
    assert observe(health, 1, 5).status == "ok"


def test_consumer_that_keeps_up_with_what_arrives_has_recovered(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    observe(health, 1, 100)
    clock.seconds += 60
    assert observe(health, 1, 100).status == "stalled"
    take_events(health)
    statuses = []
    for number in range(8):
        clock.seconds += 10
        statuses.append(observe(health, 2 + number, 100).status)
    assert statuses == ["stalled"] * 6 + ["ok"] * 2
    assert [event.type for event in take_events(health)] == ["nats.consumer.recovered"]


def test_consumer_that_only_receives_the_same_again_stays_stalled(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    fixed: dict[str, Any] = {
        "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
        "num_ack_pending": 1,
    }
    observe(health, 1, 100, **fixed)
    clock.seconds += 60
    assert observe(health, 1, 100, **fixed).status == "stalled"
    for number in range(20):
        clock.seconds += 30
        assert observe(health, 2 + number, 100, sequence=1, **fixed).status == "stalled"


def test_consumer_is_not_stalled_after_a_time_without_lists(clock: Clock) -> None:
    health = ConsumerHealth(60.0)
    observe(health, 1, 0)
    health.forget("S", "workers")
    clock.seconds += 600
    assert observe(health, 1, 5).status == "ok"


@pytest.mark.anyio
async def test_stall_survives_a_restart_without_another_event(clock: Clock, tmp_path: Path) -> None:
    context, health = MemoryContext(tmp_path), ConsumerHealth(60.0)
    observe(health, 1, 5)
    clock.seconds += 60
    since = observe(health, 1, 5).state["since"]
    await health.save(context)
    again = ConsumerHealth(60.0)
    await again.restore(context)
    resource = observe(again, 1, 5)
    assert (resource.status, resource.state["since"]) == ("stalled", since)
    assert again.events == []
    again.keep_only(set())
    await again.save(context)
    last = ConsumerHealth(60.0)
    await last.restore(context)
    assert observe(last, 1, 5).status == "ok"
