"""A run of a source against a bus in memory."""

import asyncio
import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from almenara.bus.codec import event_key, normalize
from almenara.clock import CLOCK, Clock
from almenara.hookspecs import ResourceKey
from almenara.signals import Event, Resource, Sample, Signal

PATIENCE: Final = 5.0
STOP_TIMEOUT: Final = 1.0
"""Seconds a source may take to end when it is cancelled."""


class MemoryContext:
    """`hookspecs.Context` in memory; pass the same one to the next run, as a restart does.

    `known_resources` answers from `bus`, which the run must share:
    `SourceRun(source, bus=context.bus)`.
    """

    def __init__(self, data_dir: Path, bus: "MemoryBus | None" = None) -> None:
        self.data_dir, self.bus = data_dir, bus or MemoryBus()
        self.values: dict[str, bytes] = {}

    async def load(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def save(self, key: str, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError(f"the value saved under {key!r} must be bytes")
        self.values[key] = value

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        known = self.bus.known_resources.get(source, {})
        return [key for key in known if kind in ("", key[0])]


class MemoryBus:
    """Published signals: checked as the real bus does, each event once by its identity."""

    def __init__(self) -> None:
        self.signals: list[Signal] = []
        self.repeats: list[Event] = []
        """Events that were published again with the same identity."""
        self.known_resources: dict[str, dict[ResourceKey, None]] = defaultdict(dict)
        """The resources that exist, by the name of the source that published them."""
        self._seen: set[bytes] = set()

    def accept(self, batch: Sequence[Signal], source: str = "test") -> None:
        """Store a batch of a source. Raises `TypeError` and `ValueError` as the bus does."""
        for signal in batch:
            if not isinstance(signal, Event | Resource | Sample):
                raise TypeError(f"{type(signal).__name__} is not an Event, a Resource or a Sample")
            stored = normalize(signal, source)
            if isinstance(stored, Event):
                key = event_key(stored)
                if key in self._seen:
                    self.repeats.append(stored)
                    continue
                self._seen.add(key)
            elif isinstance(stored, Resource):
                known = self.known_resources[source]
                if stored.deleted:
                    known.pop(stored.key, None)
                else:
                    known[stored.key] = None
            self.signals.append(stored)


class PublishedSignals:
    """What a run published to its bus in memory: each event once, resources in their last state,
    samples in order."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus

    @property
    def events(self) -> list[Event]:
        """The events, each once."""
        return [signal for signal in self.bus.signals if isinstance(signal, Event)]

    @property
    def resources(self) -> dict[str, Resource]:
        """The resources that exist, in their last state, by name."""
        last = {signal.name: signal for signal in self.bus.signals if isinstance(signal, Resource)}
        return {name: resource for name, resource in last.items() if not resource.deleted}

    @property
    def samples(self) -> list[Sample]:
        """The samples, in order."""
        return [signal for signal in self.bus.signals if isinstance(signal, Sample)]


class SourceRun(PublishedSignals):
    """One run of a source, and the `SourceReport` that the source reports to.

    As an asynchronous context manager it starts and stops the run. What the source published is in
    `events`, `resources` and `samples`.
    """

    def __init__(self, source: Any, *, clock: Clock | None = None, bus: MemoryBus | None = None):
        super().__init__(bus or MemoryBus())
        self.source, self.clock = source, clock
        self.degraded_for: list[str] = []
        """The reasons that the source gave for being degraded, oldest first."""
        self.is_degraded = False
        self.messages_waiting: int | None = None
        self.messages_rejected = 0
        self.task: asyncio.Task[None] | None = None
        self.fail_after_publishing: Exception | None = None
        """Raised to the source once, after its next batch was stored."""
        self._tasks_before: set[asyncio.Task[Any]] = set()

    def degraded(self, reason: str) -> None:
        self.is_degraded = True
        self.degraded_for.append(reason)

    def recovered(self) -> None:
        self.is_degraded = False

    def lag(self, messages: int) -> None:
        self.messages_waiting = messages

    def rejected(self, count: int = 1) -> None:
        self.messages_rejected += count

    async def publish(self, batch: Sequence[Signal]) -> None:
        """The `publish` of the source."""
        await asyncio.sleep(0)
        self.bus.accept(batch, getattr(self.source, "name", "") or "test")
        error, self.fail_after_publishing = self.fail_after_publishing, None
        if error is not None:
            raise error

    def start(self) -> Self:
        """Start the source in a task."""
        self._tasks_before = set(asyncio.all_tasks())
        token = CLOCK.set(self.clock) if self.clock is not None else None
        try:
            self.task = asyncio.create_task(self._run(), name="source")
        finally:
            if token is not None:
                CLOCK.reset(token)
        return self

    async def _run(self) -> None:
        if "report" in inspect.signature(self.source.run).parameters:
            await self.source.run(self.publish, report=self)
        else:
            await self.source.run(self.publish)

    async def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Return once the condition holds. Raises what the source raised, or `AssertionError`."""
        end = time.monotonic() + patience
        while not condition():
            if self.task is not None and self.task.done():
                self.task.result()
                raise AssertionError("the source returned")
            if time.monotonic() > end:
                raise AssertionError(f"the condition did not hold within {patience} s")
            await asyncio.sleep(0.005)

    async def stop(self) -> list[str]:
        """Cancel the source; return the names of tasks that it left running.

        Raises `AssertionError` where it does not end within a second.
        """
        if self.task is None:
            return []
        self.task.cancel()
        await asyncio.wait([self.task], timeout=STOP_TIMEOUT)
        if not self.task.done():
            raise AssertionError(f"the source did not end within {STOP_TIMEOUT:g} s of its cancel")
        # Tasks that were cancelled with it need some turns of the loop to end.
        for _ in range(5):
            await asyncio.sleep(0)
        leftovers = asyncio.all_tasks() - self._tasks_before - {self.task}
        return [task.get_name() for task in leftovers if not task.done()]

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        leftovers = await self.stop()
        if leftovers:
            raise AssertionError(f"the source left tasks running: {', '.join(leftovers)}")
