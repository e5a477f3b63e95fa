"""Processors on a real bus, under the supervisor."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings, SupervisorSettings
from almenara.hookspecs import Step, Subscription
from almenara.processors.source import ProcessorSource
from almenara.signals import Event, Resource, Signal
from almenara.supervisor import Supervisor
from support.bus import make_event

pytestmark = pytest.mark.anyio


class Pairs:
    """Derives an event of every second event, and a late notice of one that stays alone."""

    name = "pairs"
    subscription = Subscription(events=("pair.*",))

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        assert isinstance(signal, Event)
        if signal.data.get("fails"):
            step.state.set("waiting", "lost")
            raise ValueError("it fails")
        waiting = step.state.get("waiting", str)
        if waiting is None:
            step.state.set("waiting", signal.id)
            step.set_timer("alone", signal.time + 1_000)
            return
        step.state.delete("waiting")
        step.cancel_timer("alone")
        yield Event(
            id=step.event_id(), source="pairs", type="pair.complete", time=step.time,
            data=[waiting, signal.id],
        )  # fmt: skip

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        waiting = step.state.get("waiting", str)
        step.state.delete("waiting")
        yield Event(
            id=step.event_id(), source="pairs", type="pair.alone", time=step.time, data=waiting
        )


@asynccontextmanager
async def running(
    folder: Path, isolation: str = "thread", grace: float = 0.0
) -> AsyncIterator[tuple[EmbeddedBus, Supervisor]]:
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        supervisor = Supervisor(bus, SupervisorSettings(isolation=isolation))  # type: ignore[arg-type]
        supervisor.add(ProcessorSource(Pairs(), "test", bus, grace=grace), "test")
        task = asyncio.create_task(supervisor.run())
        try:
            yield bus, supervisor
        finally:
            task.cancel()
            await asyncio.wait([task])


async def derived(bus: EmbeddedBus, count: int) -> list[Event]:
    """The derived events, once there are `count` of them."""
    events: list[Event] = []
    async with asyncio.timeout(20):
        async for batch in bus.subscribe(0):
            events += [
                record.signal
                for record in batch
                if isinstance(record.signal, Event) and record.signal.source == "pairs"
            ]
            if len(events) >= count:
                break
    return events


@pytest.mark.parametrize("isolation", ["thread", "task", "process"])
async def test_processor_publishes_what_it_derives(tmp_path: Path, isolation: str) -> None:
    async with running(tmp_path, isolation, grace=60.0) as (bus, supervisor):
        assert supervisor.states()[0].isolation == isolation.replace("process", "thread")
        await bus.publish([make_event(1, type="pair.a"), make_event(2, type="other")], "x")
        await bus.publish([make_event(3, type="pair.b")], "x")
        (event,) = await derived(bus, 1)
        assert event.type == "pair.complete"
        assert bytes(event.data) == b'["1","3"]'
        assert event.origin == "pairs"


async def test_processor_continues_after_restart_with_its_state(tmp_path: Path) -> None:
    async with running(tmp_path, grace=60.0) as (bus, _):
        await bus.publish([make_event(1, type="pair.a")], "x")
        async with asyncio.timeout(10):
            while b"value:waiting" not in str(await bus.load_all("processor/pairs")).encode():
                await asyncio.sleep(0.01)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(2, type="pair.b")], "x")
    async with running(tmp_path, grace=60.0) as (bus, _):
        assert [bytes(event.data) for event in await derived(bus, 1)] == [b'["1","2"]']


async def test_processor_timer_fires_when_its_time_has_come(tmp_path: Path) -> None:
    async with running(tmp_path) as (bus, _):
        first = make_event(1, type="pair.a")
        await bus.publish([first], "x")
        (event,) = await derived(bus, 1)
        assert (event.type, event.time) == ("pair.alone", first.time + 1_000)


async def test_processor_skips_and_reports_signal_that_fails(tmp_path: Path) -> None:
    async with running(tmp_path, grace=60.0) as (bus, supervisor):
        await bus.publish(
            [
                make_event(1, type="pair.a"),
                make_event(2, type="pair.x", data={"fails": True}),
                make_event(3, type="pair.b"),
            ],
            "x",
        )
        assert [bytes(event.data) for event in await derived(bus, 1)] == [b'["1","3"]']
        (state,) = supervisor.states()
        assert (state.status, state.rejected) == ("degraded", 1)
        assert "Event '2': ValueError: it fails" in (state.error or "")


async def test_new_processor_starts_at_the_end_of_the_log(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(1, type="pair.a")], "x")
    async with running(tmp_path, grace=60.0) as (bus, _):
        await bus.publish([make_event(2, type="pair.a"), make_event(3, type="pair.b")], "x")
        assert [bytes(event.data) for event in await derived(bus, 1)] == [b'["2","3"]']


async def test_publish_writes_changes_with_the_batch_or_not_at_all(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(1)], "x", [("owner", "a", b"1"), ("owner", "b", b"2")])
        with pytest.raises(ValueError, match="time"):
            wrong = Resource(kind="k", name="n", time="now")  # type: ignore[arg-type]
            await bus.publish([wrong], "x", [("owner", "a", b"9")])
        await bus.publish((), "x", [("owner", "b", None)])
        assert await bus.load_all("owner") == {"a": b"1"}
