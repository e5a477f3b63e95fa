"""One source: run in its isolation, watched, and started again with backoff."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from almenara.bus import Bus, BusClosedError
from almenara.config import SourceLimits, SupervisorSettings
from almenara.hookspecs import Context, Publish
from almenara.signals import Event, Signal
from almenara.supervisor.limiter import Gate
from almenara.supervisor.process import SourceProcess
from almenara.supervisor.protocol import Start
from almenara.supervisor.start import start_source
from almenara.supervisor.state import SourceError, SourceState, sentence
from almenara.supervisor.thread import SourceThread
from almenara.supervisor.watchdog import Vitals

log = structlog.get_logger(__name__)

RATE_WINDOW: Final = 10.0
"""Seconds over which a source's rate is taken."""
LOOK: Final = 0.5
"""Seconds between looks at a source."""
ABANDON_AFTER: Final = 5.0
"""Seconds after its interruption that a blocked thread is left behind."""
ABANDONED_LIMIT: Final = 5
"""Threads that one source may leave behind before it is not started again."""


class SourceRunner:
    """One source and its fate; what the source reports to."""

    def __init__(
        self,
        source: Any,
        plugin: str,
        settings: SupervisorSettings,
        context: Context | None = None,
        start: Callable[[str], Start] | None = None,
    ) -> None:
        self.source, self.plugin, self.settings = source, plugin, settings
        self.context, self._start = context, start
        name = getattr(source, "name", "") or plugin
        own = settings.sources.get(name, SourceLimits())
        self.isolation = own.isolation or settings.isolation
        self.rate_limit: float = (
            own.rate_limit or getattr(source, "rate_limit", None) or settings.rate_limit
        )
        self.burst = own.burst or max(settings.burst, int(self.rate_limit))
        self.task_limit = own.task_limit or settings.task_limit
        self.memory_limit = own.memory_limit or settings.memory_limit
        self.state = SourceState(name=name, plugin=plugin, isolation=self.isolation)
        self.left_behind = 0
        self._published: deque[tuple[float, int]] = deque()

    def degraded(self, reason: str) -> None:
        if self.state.status != "degraded" or self.state.error != reason:
            log.warning("a source is degraded", source=self.state.name, reason=reason)
        self.state.note(reason)
        self.state.become("degraded")

    def recovered(self) -> None:
        if self.state.status != "running":
            log.info("a source is running", source=self.state.name)
        self.state.become("running")

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

    async def run(self, bus: Bus) -> None:
        """Run the source until cancelled, again and again."""
        gate = Gate(
            bus, self.state, rate=self.rate_limit, burst=self.burst,
            waiting_limit=self.settings.waiting_limit,
        )  # fmt: skip

        async def publish(batch: Sequence[Signal]) -> None:
            await gate.publish(batch)
            self.count(batch)

        try:
            await self._run_again_and_again(publish)
        finally:
            self.state.become("stopped")

    async def _run_again_and_again(self, publish: Publish) -> None:
        wait = self.settings.backoff
        while True:
            self.state.become("starting")
            self.state.blocked = None
            started = time.monotonic()
            try:
                await self._run_once(publish)
                self.state.note("the source ended by itself; it should run until it is cancelled")
            except BusClosedError:
                return
            except Exception as error:
                self._failed(error)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # It took the request to stop for something else.
                return
            if self.left_behind >= ABANDONED_LIMIT:
                self.state.note(
                    f"it left {self.left_behind} threads behind that do not end, and is not"
                    " started again before Almenara is; give it a process of its own:"
                    f" supervisor.sources.{self.state.name}.isolation: process"
                )
                log.error("a source is given up", source=self.state.name)
                self.state.become("stopped")
                await asyncio.Event().wait()
            if time.monotonic() - started >= self.settings.healthy_after:
                wait = self.settings.backoff
            self.state.become("backing_off")
            await asyncio.sleep(wait * (1 + random.uniform(-1, 1) * self.settings.jitter))  # nosec B311 # spreads restarts, guards nothing
            wait = min(wait * 2, self.settings.backoff_limit)
            self.state.restarts += 1

    def _failed(self, error: Exception) -> None:
        self.state.note(sentence(error))
        told = {} if isinstance(error, SourceError) else {"exc_info": error}
        log.error(
            "a source failed and is started again",
            source=self.state.name, error=self.state.error, **told,
        )  # fmt: skip

    async def _run_once(self, publish: Publish) -> None:
        if self.isolation == "task":
            await start_source(self.source, publish, self)
        elif self.isolation == "process":
            await self._run_in_process(publish)
        else:
            await self._run_in_thread(publish)

    async def _run_in_thread(self, publish: Publish) -> None:
        vitals = Vitals()
        thread = SourceThread(
            self.state.name, lambda put: start_source(self.source, put, self), publish, vitals
        )
        running = asyncio.create_task(thread.run(self.settings.stop_timeout))
        interrupted = 0.0
        try:
            while not (await asyncio.wait([running], timeout=LOOK))[0]:
                still = vitals.still()
                self.state.tasks = vitals.tasks
                self._look_at_block(still, vitals.stack)
                if still > self.settings.interrupt_after and not interrupted:
                    thread.interrupt()
                    interrupted = time.monotonic()
                elif interrupted and time.monotonic() - interrupted > ABANDON_AFTER:
                    thread.abandon()
                if vitals.tasks > self.task_limit:
                    raise self._leak(vitals.tasks, vitals.newest_task())
            running.result()
        finally:
            await end(running)
            self.state.tasks = None
            self.left_behind += thread.abandoned

    async def _run_in_process(self, publish: Publish) -> None:
        if self._start is None or self.context is None:
            raise SourceError("a source that no plugin made cannot have a process of its own")
        process = SourceProcess(
            self._start(self.state.name), publish, self, self.context, self.state
        )
        running = asyncio.create_task(process.run(self.settings.stop_timeout))
        try:
            while not (await asyncio.wait([running], timeout=LOOK))[0]:
                still = process.still()
                self._look_at_block(still, lambda: process.stack)
                self._check_process(process, still)
            running.result()
        except SourceError:
            process.kill()
            raise
        finally:
            await end(running)
            self.state.tasks = self.state.memory = None

    def _check_process(self, process: SourceProcess, still: float) -> None:
        if still > self.settings.interrupt_after:
            where = f" at {process.stack[-1]}" if process.stack else ""
            raise SourceError(f"its process stood still for {still:.0f} s{where}")
        if (self.state.tasks or 0) > self.task_limit:
            raise self._leak(self.state.tasks or 0, process.newest_task)
        if (memory := self.state.memory or 0) > self.memory_limit:
            raise SourceError(
                f"its process held {memory / 2**20:,.0f} MiB of memory; its limit is"
                f" {self.memory_limit / 2**20:,.0f} (memory_limit)"
            )

    def _leak(self, tasks: int, name: str) -> SourceError:
        return SourceError(
            f"it had {tasks:,} tasks at once, most of them {name}; its limit is"
            f" {self.task_limit:,} (task_limit)"
        )

    def _look_at_block(self, still: float, stack: Callable[[], list[str]]) -> None:
        if still > self.settings.blocked_after:
            where = stack()
            text = "\n".join(where) or "in code that is not Python"
            if self.state.blocked is None:
                log.error(
                    "a source blocks its event loop",
                    source=self.state.name, plugin=self.plugin, seconds=round(still, 1), at=where,
                )  # fmt: skip
            self.state.blocked = text
            last = where[-1] if where else text
            self.state.note(f"it has blocked its event loop for {still:.0f} s, at {last}")
            self.state.become("blocked")
        elif self.state.blocked is not None:
            self.state.blocked = None
            log.info("a source blocks no longer", source=self.state.name)
            if self.state.status == "blocked":
                self.state.become("running")


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end, through a further request to stop."""
    task.cancel()
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
