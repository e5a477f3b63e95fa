"""The runner of one source: runs it in its isolation, watches it, and restarts it with backoff."""

import asyncio
import inspect
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from almenara.bus import BusClosedError, StateChange
from almenara.bus.validation import check_state
from almenara.cancellation import cancel_and_wait, run_in_task
from almenara.config import SourceLimits, SupervisorSettings
from almenara.errors import describe_error, make_encodable
from almenara.hookspecs import Context, Publish, SourceReport
from almenara.leases import Publisher
from almenara.plugins.context import save_of_source
from almenara.signals import Event, Signal
from almenara.supervisor.limiter import PublishLimiter
from almenara.supervisor.protocol import Start
from almenara.supervisor.source_process import SourceProcess
from almenara.supervisor.source_thread import SourceThread
from almenara.supervisor.state import (
    RateMeter,
    SourceError,
    SourceState,
    bound_count,
    shorten_error,
)
from almenara.supervisor.watchdog import Heartbeat

log = structlog.get_logger(__name__)

CHECK_INTERVAL: Final = 0.5
"""Seconds between checks of a running source."""
ABANDON_AFTER: Final = 5.0
"""Seconds after its interruption that a blocked thread is abandoned."""
ABANDONED_LIMIT: Final = 5
"""Abandoned threads of one source after which it is not restarted."""


class SourceRunner:
    """One source with its limits and its state; the `SourceReport` that the source reports to."""

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
        if self.isolation == "process" and not getattr(source, "can_have_process", True):
            self.isolation = "thread"
        self.rate_limit: float = (
            own.rate_limit or getattr(source, "rate_limit", None) or settings.rate_limit
        )
        self.burst = own.burst or max(settings.burst, int(self.rate_limit))
        self.task_limit = own.task_limit or settings.task_limit
        self.memory_limit = own.memory_limit or settings.memory_limit
        self.state = SourceState(name=name, plugin=plugin, isolation=self.isolation)
        self.abandoned = 0
        """Threads and tasks of it that did not end when they were stopped."""
        self._rate = RateMeter()

    # SourceReport

    def degraded(self, reason: str) -> None:
        reason = shorten_error(reason)
        if self.state.status != "degraded" or self.state.error != reason:
            log.warning("a source is degraded", source=self.state.name, reason=reason)
        self.state.record_error(reason)
        self.state.set_status("degraded")

    def recovered(self) -> None:
        if self.state.status != "running":
            log.info("a source is running", source=self.state.name)
        self.state.set_status("running")

    def lag(self, messages: int) -> None:
        self.state.lag = bound_count(messages)

    def rejected(self, count: int = 1) -> None:
        self.state.rejected = bound_count(self.state.rejected + count)

    # State

    def _count(self, batch: Sequence[Signal]) -> None:
        events = sum(isinstance(signal, Event) for signal in batch)
        self.state.events += events
        self._rate.count(events)
        if self.state.status == "starting":
            self.recovered()

    def snapshot(self) -> SourceState:
        """The state as of now."""
        self.state.rate = self._rate.per_second()
        return self.state

    # Running

    async def run(self, bus: Publisher) -> None:
        """Run the source until cancelled, with a restart after each end."""
        limiter = PublishLimiter(
            bus, self.state, rate=self.rate_limit, burst=self.burst,
            waiting_limit=self.settings.pending_limit,
        )  # fmt: skip

        async def publish(batch: Sequence[Signal], changes: Sequence[StateChange] = ()) -> None:
            await limiter.publish(batch, changes)
            self._count(batch)

        async def save(plugin: str, key: str, value: bytes) -> None:
            check_state(key, value)
            await bus.publish((), self.state.name, ((plugin, key, value),))

        reset = save_of_source.set(save)
        try:
            await self._run_with_restarts(publish)
        finally:
            save_of_source.reset(reset)
            self.state.set_status("stopped")

    async def _run_with_restarts(self, publish: Publish) -> None:
        wait = self.settings.backoff
        while True:
            self.state.set_status("starting")
            self.state.blocked = None
            started = time.monotonic()
            try:
                await self._run_once(publish)
                self.state.record_error("run() returned; it should run until it is cancelled")
            except BusClosedError:
                return
            except Exception as error:
                self._record_failure(error)
            if self.abandoned >= ABANDONED_LIMIT:
                await self._give_up()
            if time.monotonic() - started >= self.settings.backoff_reset_after:
                wait = self.settings.backoff
            self.state.set_status("backing_off")
            await asyncio.sleep(wait * (1 + random.uniform(-1, 1) * self.settings.backoff_jitter))  # nosec B311 # spreads restarts, guards nothing
            wait = min(wait * 2, self.settings.backoff_limit)
            self.state.restarts += 1

    async def _give_up(self) -> None:
        """Stay stopped until cancelled: every restart would leave one more thread behind."""
        self.state.record_error(
            f"{self.abandoned} of its threads do not end, so it is not restarted before Almenara"
            " is; give it a process of its own:"
            f" supervisor.sources.{self.state.name}.isolation: process"
        )
        log.error("a source is given up", source=self.state.name)
        self.state.set_status("stopped")
        await asyncio.Event().wait()

    def _record_failure(self, error: Exception) -> None:
        self.state.record_error(describe_error(error, with_type=True))
        details = {} if isinstance(error, SourceError) else {"exc_info": error}
        log.error(
            "a source failed and is restarted",
            source=self.state.name, error=self.state.error, **details,
        )  # fmt: skip

    async def _run_once(self, publish: Publish) -> None:
        if self.isolation == "task":
            # A source that mistakes the request to stop for a failure of its own ends all the same.
            await run_in_task(run_source(self.source, publish, self))
        elif self.isolation == "process":
            await self._run_in_process(publish)
        else:
            await self._run_in_thread(publish)

    async def _run_in_thread(self, publish: Publish) -> None:
        heartbeat, save = Heartbeat(), save_of_source.get()

        async def run(thread_publish: Publish) -> None:
            # A thread does not inherit it.
            save_of_source.set(save)
            await run_source(self.source, thread_publish, self)

        thread = SourceThread(self.state.name, run, publish, heartbeat)
        running = asyncio.create_task(thread.run(self.settings.stop_timeout))
        interrupted = 0.0
        try:
            while not (await asyncio.wait([running], timeout=CHECK_INTERVAL))[0]:
                seconds = heartbeat.blocked_for()
                self.state.tasks = heartbeat.tasks
                self._check_blocked(seconds, heartbeat.stack)
                if seconds > self.settings.interrupt_after and not interrupted:
                    thread.interrupt()
                    interrupted = time.monotonic()
                elif interrupted and time.monotonic() - interrupted > ABANDON_AFTER:
                    thread.abandon()
                if heartbeat.tasks > self.task_limit:
                    raise self._leak(heartbeat.tasks, heartbeat.commonest_task())
            running.result()
        finally:
            await cancel_and_wait(running)
            self.state.tasks = None
            self.abandoned += thread.abandoned

    async def _run_in_process(self, publish: Publish) -> None:
        if self._start is None or self.context is None:
            raise SourceError("only a source of a plugin can run in a process of its own")
        process = SourceProcess(
            self._start(self.state.name), publish, self, self.context, self.state
        )
        running = asyncio.create_task(process.run(self.settings.stop_timeout))
        try:
            while not (await asyncio.wait([running], timeout=CHECK_INTERVAL))[0]:
                seconds = process.blocked_for()
                self._check_blocked(seconds, lambda: process.stack)
                self._check_process(process, seconds)
            running.result()
        except SourceError:
            process.kill()
            raise
        finally:
            await cancel_and_wait(running)
            self.state.tasks = self.state.memory = None

    def _check_process(self, process: SourceProcess, seconds: float) -> None:
        if seconds > self.settings.interrupt_after:
            where = f" at {process.stack[-1]}" if process.stack else ""
            raise SourceError(f"its process was blocked for {seconds:.0f} s{where}")
        if (self.state.tasks or 0) > self.task_limit:
            raise self._leak(self.state.tasks or 0, process.commonest_task)
        if (memory := self.state.memory or 0) > self.memory_limit:
            raise SourceError(
                f"its process used {memory / 2**20:,.0f} MiB of memory; its limit is"
                f" {self.memory_limit / 2**20:,.0f} MiB (memory_limit)"
            )

    def _leak(self, tasks: int, name: str) -> SourceError:
        return SourceError(
            f"it had {tasks:,} tasks at once, most of them {name}; its limit is"
            f" {self.task_limit:,} (task_limit)"
        )

    def _check_blocked(self, seconds: float, stack: Callable[[], list[str]]) -> None:
        if seconds > self.settings.blocked_after:
            calls = stack()
            text = make_encodable("\n".join(calls)) or "in code that is not Python"
            if self.state.blocked is None:
                log.error(
                    "a source blocks its event loop",
                    source=self.state.name, plugin=self.plugin, seconds=round(seconds, 1), at=calls,
                )  # fmt: skip
            self.state.blocked = text
            last = calls[-1] if calls else text
            self.state.record_error(f"it has blocked its event loop for {seconds:.0f} s, at {last}")
            self.state.set_status("blocked")
        elif self.state.blocked is not None:
            self.state.blocked = None
            log.info("a source no longer blocks its event loop", source=self.state.name)
            if self.state.status == "blocked":
                self.state.set_status("running")


async def run_source(source: Any, publish: Publish, report: SourceReport) -> None:
    """Call a source's `run`, with the report where it has a parameter for one."""
    if "report" in inspect.signature(source.run).parameters:
        await source.run(publish, report=report)
    else:
        await source.run(publish)
