"""The NATS source alone: what it publishes and reports, without an application around it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from nats.js.errors import NotFoundError

from almenara.signals import Event, Resource, Sample, Signal
from almenara.testing.source_run import MemoryContext
from almenara_nats.settings import NatsSettings
from almenara_nats.source import NatsSource
from support.servers import NatsServer


class SourceHarness:
    """A running source: what it published, what it reported."""

    def __init__(self, memory: MemoryContext) -> None:
        self.memory = memory
        self.signals: list[Signal] = []
        self.reasons: list[str] = []
        """All reasons for being degraded."""
        self.open = asyncio.Event()
        self.open.set()
        self.status, self.reason, self.waiting, self.rejected_count = "starting", "", 0, 0

    async def publish(self, batch: Sequence[Signal]) -> None:
        await self.open.wait()
        self.memory.bus.accept(batch, "nats")
        self.signals += batch

    def degraded(self, reason: str) -> None:
        self.status, self.reason = "degraded", reason
        self.reasons.append(reason)

    def recovered(self) -> None:
        self.status, self.reason = "running", ""

    def lag(self, messages: int) -> None:
        self.waiting = messages

    def rejected(self, count: int = 1) -> None:
        self.rejected_count += count

    def resource(self, kind: str, name: str) -> Resource | None:
        """The last state of a resource."""
        for signal in reversed(self.signals):
            if isinstance(signal, Resource) and (signal.kind, signal.name) == (kind, name):
                return signal
        return None

    def status_of(self, kind: str, name: str) -> str:
        """The last status of a resource; empty for one that was not published."""
        resource = self.resource(kind, name)
        return resource.status if resource is not None else ""

    def samples(self, metric: str) -> list[Sample]:
        """The samples of a metric, oldest first."""
        samples = [signal for signal in self.signals if isinstance(signal, Sample)]
        return [sample for sample in samples if sample.metric == metric]

    @property
    def events(self) -> list[Event]:
        return [signal for signal in self.signals if isinstance(signal, Event)]

    @property
    def numbers(self) -> list[int]:
        """The `n` of every message that is JSON, in the order they were published."""
        return [json.loads(bytes(event.data))["n"] for event in self.events if is_json(event)]


def is_json(event: Event) -> bool:
    return isinstance(event.data, msgspec.Raw)


@asynccontextmanager
async def running(
    server: NatsServer, memory: MemoryContext, **settings: Any
) -> AsyncIterator[SourceHarness]:
    run = SourceHarness(memory)
    settings.setdefault("servers", [server.url])
    source = NatsSource(NatsSettings(**settings), memory)
    task = asyncio.create_task(source.run(run.publish, run))
    try:
        yield run
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], what: str, patience: float = 15.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {patience:g} s"
        await asyncio.sleep(0.02)


async def until_read(jetstream: Any, stream: str) -> None:
    async with asyncio.timeout(15):
        while True:
            with suppress(NotFoundError):
                await jetstream.consumer_info(stream, "almenara")
                return
            await asyncio.sleep(0.02)


async def publish_numbers(jetstream: Any, subject: str, numbers: range) -> None:
    for number in numbers:
        await jetstream.publish(subject, json.dumps({"n": number}).encode())
