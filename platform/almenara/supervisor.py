"""Runs sources: each in a task of its own, restarted with backoff, its state for all to see."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import structlog

from almenara.bus import Bus, BusClosedError
from almenara.hookspecs import Publish, Source
from almenara.settings import SupervisorSettings
from almenara.signals import Event, Signal, now

log = structlog.get_logger(__name__)

Status = Literal["starting", "running", "degraded", "backing_off", "stopped"]
RATE_WINDOW: Final = 10.0
"""Seconds over which a source's rate is taken."""
LONGEST_ERROR: Final = 500


class SourceState(msgspec.Struct, kw_only=True):
    """What is known of one source."""

    name: str
    plugin: str
    status: Status = "starting"
    since: int = msgspec.field(default_factory=now)
    """When it came into that status, in microseconds since the epoch."""
    error: str | None = None
    """The last error, for the person who reads it."""
    error_time: int | None = None
    restarts: int = 0
    events: int = 0
    """Events published since Almenara started."""
    rate: float = 0.0
    """Events a second, over the last ten."""
    lag: int | None = None
    """Messages that wait upstream, where the source knows."""
    rejected: int = 0
    """Messages that could be kept only with a problem marked."""


class Supervised:
    """One source and its fate; what the source reports to."""

    def __init__(self, source: Source, plugin: str, settings: SupervisorSettings) -> None:
        self.source, self.settings = source, settings
        self.state = SourceState(name=source.name, plugin=plugin)
        self._published: deque[tuple[float, int]] = deque()

    def degraded(self, reason: str) -> None:
        if self.state.status != "degraded" or self.state.error != reason:
            log.warning("a source is degraded", source=self.source.name, reason=reason)
        self._error(reason)
        self._become("degraded")

    def recovered(self) -> None:
        if self.state.status != "running":
            log.info("a source is running", source=self.source.name)
        self._become("running")

    def lag(self, messages: int) -> None:
        self.state.lag = messages

    def rejected(self, count: int = 1) -> None:
        self.state.rejected += count

    def count(self, batch: Sequence[Signal]) -> None:
        """Note what was published."""
        events = sum(isinstance(signal, Event) for signal in batch)
        self.state.events += events
        self._published.append((time.monotonic(), events))
        if self.state.status == "starting":
            self.recovered()

    def observe(self) -> SourceState:
        """The state as of now."""
        start = time.monotonic() - RATE_WINDOW
        while self._published and self._published[0][0] < start:
            self._published.popleft()
        self.state.rate = sum(events for _, events in self._published) / RATE_WINDOW
        return self.state

    def _become(self, status: Status) -> None:
        if self.state.status != status:
            self.state.status = status
            self.state.since = now()

    def _error(self, text: str) -> None:
        self.state.error = text[:LONGEST_ERROR]
        self.state.error_time = now()

    async def run(self, bus: Bus) -> None:
        """Run the source until cancelled, again and again."""

        async def publish(batch: Sequence[Signal]) -> None:
            await bus.publish(batch, self.source.name)
            self.count(batch)

        try:
            await self._run_again_and_again(publish)
        finally:
            self._become("stopped")

    async def _run_again_and_again(self, publish: Publish) -> None:
        wait = self.settings.backoff
        while True:
            self._become("starting")
            started = time.monotonic()
            try:
                await self.source.run(publish, self)
                self._error("the source ended by itself; it should run until it is cancelled")
            except BusClosedError:
                return
            except Exception as error:
                self._error(sentence(error))
                log.exception("a source failed and is started again", source=self.source.name)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # It took the request to stop for something else.
                return
            if time.monotonic() - started >= self.settings.healthy_after:
                wait = self.settings.backoff
            self._become("backing_off")
            await asyncio.sleep(wait * (1 + random.uniform(-1, 1) * self.settings.jitter))  # noqa: S311
            wait = min(wait * 2, self.settings.backoff_limit)
            self.state.restarts += 1


class Supervisor:
    """All sources. `run` keeps them going until it is cancelled."""

    def __init__(self, bus: Bus, settings: SupervisorSettings) -> None:
        self.bus, self.settings = bus, settings
        self._sources: list[Supervised] = []

    def add(self, source: Source, plugin: str) -> None:
        """Take a source under supervision. Raises `ValueError` for a name that is taken."""
        if any(it.source.name == source.name for it in self._sources):
            raise ValueError(
                f"plugin {plugin} has a source named {source.name!r}, and so has another;"
                " the names of sources must differ"
            )
        self._sources.append(Supervised(source, plugin, self.settings))

    def states(self) -> list[SourceState]:
        """The state of every source, in the order they were added."""
        return [it.observe() for it in self._sources]

    async def run(self) -> None:
        """Run every source until cancelled; sources that do not stop in time are left behind."""
        tasks = {
            asyncio.create_task(it.run(self.bus), name=f"source {it.source.name}"): it
            for it in self._sources
        }
        try:
            await asyncio.Event().wait()
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=self.settings.stop_timeout)
                for task in late:
                    log.warning("a source does not stop", source=tasks[task].source.name)


def sentence(error: BaseException) -> str:
    """An error in one line, the errors of a group among them."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(sentence(it) for it in error.exceptions))
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
