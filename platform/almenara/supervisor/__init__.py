"""Runs sources: each apart from the others, restarted with backoff, its state for all to see."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from almenara.bus import Bus
from almenara.config import SupervisorSettings
from almenara.hookspecs import Context
from almenara.supervisor.protocol import Start
from almenara.supervisor.runner import SourceRunner, end
from almenara.supervisor.state import SourceState, sentence
from almenara.supervisor.thread import across

__all__ = ["SourceRunner", "SourceState", "Supervisor", "across", "sentence"]

log = structlog.get_logger(__name__)

Step = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """The start-up and shutdown of a plugin without any."""


class Supervisor:
    """All sources, by plugin. `run` keeps them going until it is cancelled."""

    def __init__(self, bus: Bus, settings: SupervisorSettings) -> None:
        self.bus, self.settings = bus, settings
        self._plugins: dict[str, list[SourceRunner]] = {}
        self._steps: dict[str, tuple[Step, Step]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = False

    def add(
        self,
        source: Any,
        plugin: str,
        context: Context | None = None,
        start: Callable[[str], Start] | None = None,
    ) -> None:
        """Take a source under supervision. Raises `ValueError` for a name that is taken.

        `start` says what a process of its own is told, by the name of the source.
        """
        one = SourceRunner(source, plugin, self.settings, context, start)
        for other in self._all():
            if other.state.name == one.state.name:
                raise ValueError(
                    f"plugin {plugin} has a source named {one.state.name!r}, and so has plugin"
                    f" {other.plugin}; the names of sources must differ"
                )
        self._plugins.setdefault(plugin, []).append(one)

    def around(self, plugin: str, startup: Step, shutdown: Step) -> None:
        """Call these before the sources of a plugin run, and after they have ended."""
        self._plugins.setdefault(plugin, [])
        self._steps[plugin] = startup, shutdown

    def states(self) -> list[SourceState]:
        """The state of every source, in the order they were added."""
        return [it.observe() for it in self._all()]

    def left_behind(self) -> list[str]:
        """The sources that did not end when they were told to."""
        return [it.state.name for it in self._all() if it.left_behind]

    def _all(self) -> Sequence[SourceRunner]:
        return [it for sources in self._plugins.values() for it in sources]

    def begin(self, plugin: str) -> None:
        """Run the sources of a plugin that was added while others run."""
        if self._running and plugin in self._plugins and plugin not in self._tasks:
            self._tasks[plugin] = asyncio.create_task(
                self._run_plugin(plugin), name=f"plugin {plugin}"
            )

    async def remove(self, plugin: str) -> None:
        """Stop the sources of a plugin and forget them."""
        if (task := self._tasks.pop(plugin, None)) is not None:
            await end(task)
        self._plugins.pop(plugin, None)
        self._steps.pop(plugin, None)

    async def run(self) -> None:
        """Run every source until cancelled; sources that do not stop in time are left behind."""
        self._running = True
        for plugin in list(self._plugins):
            self.begin(plugin)
        try:
            await asyncio.Event().wait()
        finally:
            self._running = False
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            if tasks:
                # The sources have their own time to stop; this is for what hangs besides.
                _, late = await asyncio.wait(tasks, timeout=self.settings.stop_timeout * 2 + 1)
                for task in late:
                    log.warning("a plugin does not stop and is left behind", task=task.get_name())

    async def _run_plugin(self, plugin: str) -> None:
        startup, shutdown = self._steps.get(plugin, (nothing, nothing))
        sources = self._plugins[plugin]
        try:
            await self._start_up(plugin, startup, sources)
            tasks = {
                asyncio.create_task(it.run(self.bus), name=f"source {it.state.name}"): it
                for it in sources
            }
            try:
                await asyncio.Event().wait()
            finally:
                for task in tasks:
                    task.cancel()
                if tasks:
                    limit = self.settings.stop_timeout + 0.5
                    _, late = await asyncio.wait(tasks, timeout=limit)
                    for task in late:
                        tasks[task].left_behind += 1
                        log.warning(
                            "a source does not stop and is left behind",
                            source=tasks[task].state.name,
                        )
        finally:
            try:
                async with asyncio.timeout(self.settings.stop_timeout):
                    await shutdown()
            except Exception as error:
                log.warning("a plugin failed to shut down", plugin=plugin, error=sentence(error))

    async def _start_up(self, plugin: str, startup: Step, sources: Sequence[SourceRunner]) -> None:
        wait = self.settings.backoff
        while True:
            try:
                return await startup()
            except Exception as error:
                log.exception("a plugin failed to start and is tried again", plugin=plugin)
                for it in sources:
                    it.state.note(f"its plugin failed to start: {sentence(error)}")
                    it.state.become("backing_off")
            await asyncio.sleep(wait)
            wait = min(wait * 2, self.settings.backoff_limit)
