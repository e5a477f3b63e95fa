"""The supervisor of all sources: runs them plugin by plugin and knows the state of each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from almenara.bus import Bus
from almenara.bus.validation import RESERVED_ORIGIN
from almenara.cancellation import cancel_and_wait, finish_within
from almenara.clock import now
from almenara.config import SupervisorSettings
from almenara.errors import describe_error
from almenara.hookspecs import Context
from almenara.leases import Leases, SoleLeases
from almenara.supervisor.protocol import Start
from almenara.supervisor.runner import SourceRunner
from almenara.supervisor.state import (
    UNPROVEN_AFTER,
    SourceState,
    decode_report,
    encode_report,
)

log = structlog.get_logger(__name__)

Step = Callable[[], Awaitable[None]]


async def do_nothing() -> None:
    """The startup and shutdown of a plugin that has neither."""


class Supervisor:
    """All sources, by plugin. `run` keeps them running until it is cancelled."""

    def __init__(
        self, bus: Bus, settings: SupervisorSettings, leases: Leases | None = None
    ) -> None:
        self.bus, self.settings = bus, settings
        self.leases = leases or SoleLeases(bus)
        self._plugins: dict[str, list[SourceRunner]] = {}
        self._steps: dict[str, tuple[Step, Step]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._senders: list[Callable[[], SourceState]] = []
        self._is_running = False

    def add_sender(self, snapshot: Callable[[], SourceState]) -> None:
        """Add the state of a sender that pushes signals: it is listed with the sources."""
        self._senders.append(snapshot)

    def add(
        self,
        source: Any,
        plugin: str,
        context: Context | None = None,
        start: Callable[[str], Start] | None = None,
    ) -> None:
        """Add a source. Raises `ValueError` for a name that is taken or reserved.

        `start` makes the first message to a process of the source's own, from the source's name.
        """
        runner = SourceRunner(source, plugin, self.settings, context, start)
        if RESERVED_ORIGIN.match(runner.state.name):
            raise ValueError(
                f"plugin {plugin} has a source named {runner.state.name!r}; names that begin with"
                " almenara are reserved"
            )
        for other in self._runners():
            if other.state.name == runner.state.name:
                raise ValueError(
                    f"plugin {plugin} has a source named {runner.state.name!r}, and so has plugin"
                    f" {other.plugin}; source names must be unique"
                )
        self._plugins.setdefault(plugin, []).append(runner)

    def set_steps(self, plugin: str, startup: Step, shutdown: Step) -> None:
        """Call these before the sources of a plugin run, and after they have ended."""
        self._plugins.setdefault(plugin, [])
        self._steps[plugin] = startup, shutdown

    def states(self) -> list[SourceState]:
        """The state of every source and sender, in the order they were added."""
        states = [runner.snapshot() for runner in self._runners()]
        states += [snapshot() for snapshot in self._senders]
        for state in states:
            state.replica = self.leases.holder(state.name)
            state.left_out = self.bus.counters.left_out.get(state.name, 0)
        return [self._find_remote(state) or state for state in states]

    def list_reports(self) -> dict[str, dict[str, Any]]:
        """Return what other replicas display of the sources that this one runs."""
        return {
            runner.state.name: encode_report(runner.snapshot())
            for runner in self._runners()
            if runner.state.status != "standby"
        }

    def unproven_sources(self) -> dict[str, int]:
        """The sources that do not work, here or on another replica, by name, and since when."""
        unproven: dict[str, int] = {}
        for runner in self._runners():
            state = runner.state
            # Called for each resource that a page reads, so that nothing else is decoded.
            since = self._find_remote_idle(state.name) if state.status == "standby" else None
            if since is None and state.is_unproven:
                since = state.idle_since or state.since
            if since is not None:
                unproven[state.name] = since
        return unproven

    def _find_remote_idle(self, name: str) -> int | None:
        """Return since when a source does not work on another replica; None while it does."""
        report = self.leases.find_report(name)
        since = report.get("idle_since") if report is not None else None
        return since if isinstance(since, int) and now() - since > UNPROVEN_AFTER else None

    def _find_remote(self, state: SourceState) -> SourceState | None:
        """Return the state of a source on the replica that runs it; None where this one does."""
        if state.status != "standby" or (report := self.leases.find_report(state.name)) is None:
            return None
        return decode_report(report, state)

    def unstopped_sources(self) -> list[str]:
        """The names of sources that did not end when they were stopped."""
        return [runner.state.name for runner in self._runners() if runner.abandoned]

    def _runners(self) -> Sequence[SourceRunner]:
        return [runner for runners in self._plugins.values() for runner in runners]

    def start(self, plugin: str) -> None:
        """Run the sources of a plugin that was added while the supervisor runs."""
        if self._is_running and plugin in self._plugins and plugin not in self._tasks:
            self._tasks[plugin] = asyncio.create_task(
                self._run_plugin(plugin), name=f"plugin {plugin}"
            )

    async def remove(self, plugin: str) -> None:
        """Stop the sources of a plugin and forget them."""
        if (task := self._tasks.pop(plugin, None)) is not None:
            await cancel_and_wait(task)
        self._plugins.pop(plugin, None)
        self._steps.pop(plugin, None)

    async def run(self) -> None:
        """Run every source until cancelled; sources that do not stop in time are abandoned."""
        self._is_running = True
        for plugin in list(self._plugins):
            self.start(plugin)
        try:
            await asyncio.Event().wait()
        finally:
            self._is_running = False
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            if tasks:
                # Each source has its own time to stop; this bound is for everything around them.
                _, late = await asyncio.wait(tasks, timeout=self.settings.stop_timeout * 2 + 1)
                for task in late:
                    log.warning("a plugin does not stop and is abandoned", task=task.get_name())

    async def _run_plugin(self, plugin: str) -> None:
        startup, shutdown = self._steps.get(plugin, (do_nothing, do_nothing))
        runners = self._plugins[plugin]
        try:
            await self._start_up(plugin, startup, runners)
            tasks = {
                asyncio.create_task(
                    self._run_source(runner), name=f"source {runner.state.name}"
                ): runner
                for runner in runners
            }
            try:
                await asyncio.Event().wait()
            finally:
                await self._stop(tasks)
        finally:
            try:
                await finish_within(self.settings.stop_timeout, shutdown())
            except Exception as error:
                log.warning(
                    "a plugin failed to shut down",
                    plugin=plugin,
                    error=describe_error(error, with_type=True),
                )

    async def _run_source(self, runner: SourceRunner) -> None:
        """Run a source while this replica has its lease."""

        await self.leases.run(
            runner.state.name,
            runner.run,
            lambda: runner.state.set_status("standby"),
            is_fenced=True,
        )

    async def _stop(self, tasks: dict[asyncio.Task[None], SourceRunner]) -> None:
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self.settings.stop_timeout + 0.5)
        for task in late:
            runner = tasks[task]
            runner.abandoned += 1
            log.warning("a source does not stop and is abandoned", source=runner.state.name)

    async def _start_up(self, plugin: str, startup: Step, runners: Sequence[SourceRunner]) -> None:
        wait = self.settings.backoff
        while True:
            try:
                return await startup()
            except Exception as error:
                log.exception("a plugin failed to start; retrying", plugin=plugin, seconds=wait)
                reason = describe_error(error, with_type=True)
                for runner in runners:
                    runner.state.record_error(f"its plugin failed to start: {reason}")
                    runner.state.set_status("backing_off")
            await asyncio.sleep(wait)
            wait = min(wait * 2, self.settings.backoff_limit)
