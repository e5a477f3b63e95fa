"""The link of a replica to the shared log: a session as long as it lasts, then the next one."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import structlog

from almenara.bus import BusClosedError
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.log_follower import LogDivergedError, LogFollower
from almenara.bus.work import LogPosition
from almenara.cancellation import run_in_task
from almenara.errors import Unavailable, describe_error
from almenara.shared_log import LogSession, SharedLog

log = structlog.get_logger(__name__)

MAX_LAG: Final = 1.0
"""Seconds that a replica may be behind the log and count as ready."""


class LogLink:
    """Keeps a session open and lets the index follow it. `start` and `close` bracket its task."""

    def __init__(
        self,
        shared_log: SharedLog,
        index: EmbeddedBus,
        position: LogPosition | None,
        on_applied: Callable[[bytes, Exception | None], None],
    ) -> None:
        self._log, self._retry = shared_log, index.settings.write_retry_interval
        self.follower = LogFollower(index, position, on_applied, self.report)
        self.session: LogSession | None = None
        self.problem: str | None = None
        """Why the log cannot be used at the moment; None while it can."""
        self._failure: str | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, patience: float) -> None:
        """Start following, and return once the index has what the log has; or without it after
        `patience` seconds.

        Raises `LogDivergedError` where the index is not of this log.
        """
        self._task = asyncio.create_task(self._run(), name="shared log")
        await wait_for_any([self.follower.caught_up], self._task, patience)
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """End the session and the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            started = monotonic()
            try:
                await run_in_task(self._follow())
            except LogDivergedError as error:
                self._failure = f"The history of this replica is not that of the bus: {error}."
                raise
            except (Unavailable, TimeoutError, OSError) as error:
                self.report(describe_error(error))
            except Exception as error:
                log.exception("following the shared log failed; it is tried again")
                self.report(describe_error(error, with_type=True))
            # After one that has lasted, the next one is opened at once: every source waits for it.
            await asyncio.sleep(max(started + self._retry - monotonic(), 0.0))

    async def _follow(self) -> None:
        async with self._log.connect() as session:
            self._set_session(session)
            try:
                await self.follower.run(session)
            finally:
                # Before it is closed, which may take a second.
                self._set_session(None)

    def _set_session(self, session: LogSession | None) -> None:
        self.session = session
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def report(self, problem: str | None) -> None:
        """Note that the log cannot be used, or can be used again."""
        if problem is not None and self.problem is None:
            log.error("the shared log is not available", reason=problem)
        elif problem is None and self.problem is not None:
            log.info("the shared log is available")
        self.problem = problem

    @property
    def failure(self) -> str | None:
        """Why only a restart helps; None while following goes on."""
        if self._failure is None and self._task is not None and self._task.done():
            return "The task that follows the bus has ended."
        return self._failure

    async def wait_for_session(self, done: "asyncio.Future[None]") -> LogSession | None:
        """Return a session of which the index has applied everything that the log had when it was
        opened; None once `done` is set.

        Raises `BusClosedError` where no session will follow.
        """
        while not done.done():
            if self.failure is not None:
                raise BusClosedError(f"{self.failure} Restart Almenara.")
            if self.session is not None and self.follower.caught_up.is_set():
                return self.session
            events = [self._changed]
            if self.session is not None:
                events.append(self.follower.caught_up)
            await wait_for_any(events, done)
        return None

    async def wait_for_end(self, session: LogSession, done: "asyncio.Future[None]") -> None:
        """Return once the session has ended, or `done` is set."""
        while self.session is session and not done.done():
            await wait_for_any([self._changed], done)

    @property
    def not_ready(self) -> str | None:
        """Why this replica should not serve yet; None once it has caught up with the log."""
        follower = self.follower
        if follower.caught_up.is_set() and (lag := follower.lag) <= MAX_LAG:
            return None
        if follower.was_caught_up and not follower.is_reading:
            # Every replica has this problem, and pages still show what was stored. A session may be
            # open: a server can be connected to while the log has no leader.
            return None
        if not follower.caught_up.is_set():
            return self.problem or "the history of this replica is built from the bus"
        return f"this replica is {lag:.0f} s behind the bus"


async def wait_for_any(
    events: list[asyncio.Event], done: "asyncio.Future[None]", seconds: float | None = None
) -> None:
    """Return once an event or the future is set, or after some seconds."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    watched: list[asyncio.Future[Any]] = [*waits, done]
    try:
        await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
