"""The sources as resources on the bus, which rules read."""

import asyncio
from collections.abc import Sequence

import pytest

from almenara.alerting.sources import publish_sources
from almenara.clock import CLOCK
from almenara.hookspecs import ResourceKey
from almenara.signals import Resource, Signal
from almenara.supervisor import SourceState
from almenara.testing import ManualClock

pytestmark = pytest.mark.anyio


class Bus:
    """Remembers what is published."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.published: list[tuple[str, str]] = []

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[object] = ()
    ) -> None:
        for each in batch:
            assert isinstance(each, Resource)
            self.published.append((each.name, "deleted" if each.deleted else each.status))

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        return [(kind, "", name) for name in self.known]


async def test_missing_source_is_stopped_while_a_plugin_has_failed_and_then_removed() -> None:
    CLOCK.set(clock := ManualClock())
    bus, failures = Bus("nats", "ray"), [True]
    states = [SourceState(name="nats", plugin="nats", status="running")]
    task = asyncio.create_task(publish_sources(bus, lambda: states, lambda: bool(failures)))
    try:
        await clock.settle()
        await clock.advance(3)
        assert bus.published == [("ray", "stopped"), ("nats", "running")]
        failures.clear()
        await clock.advance(3)
        assert bus.published[2:] == [("ray", "deleted")]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_source_of_another_replica_is_published_by_that_replica() -> None:
    CLOCK.set(clock := ManualClock())
    bus = Bus()
    states = [
        SourceState(name="nats", plugin="nats", status="degraded", replica="b", is_reported=True),
        SourceState(name="ray", plugin="ray", status="standby", replica="b"),
        SourceState(name="vllm", plugin="vllm", status="running", replica="a"),
    ]
    task = asyncio.create_task(publish_sources(bus, lambda: states))
    try:
        await clock.advance(3)
        assert bus.published == [("vllm", "running")]
    finally:
        task.cancel()
        await asyncio.wait([task])
