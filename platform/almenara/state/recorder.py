"""Records what becomes of resources: changes every few seconds, checkpoints every hour."""

import asyncio
import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec
import structlog

from almenara.bus.storage_errors import is_damage
from almenara.clock import Clock, SystemClock
from almenara.config import CheckpointSettings
from almenara.errors import Unavailable, describe_error
from almenara.signals import Resource
from almenara.state.checkpoints import (
    DATABASE,
    Change,
    CheckpointDatabase,
    CheckpointsTooNewError,
    DamagedCheckpointError,
    StoredState,
    apply_changes,
)
from almenara.state.sample_schema import set_aside

log = structlog.get_logger(__name__)

FLUSH_INTERVAL: Final = 10.0
MAX_PENDING: Final = 50_000
"""Changes in memory while nothing can be stored; beyond it, the oldest are left out."""

DAMAGE: Final = (ValueError, msgspec.MsgspecError, zlib.error)
"""What reading a damaged checkpoint may raise, besides errors of SQLite."""

T = TypeVar("T")


class StateRecorder:
    """Changes of resources in a folder. Use as an async context manager; it owns a thread.

    Nothing that happens to it raises, except where the past is read: `problem` has the reason.
    """

    def __init__(
        self, folder: Path, settings: CheckpointSettings, clock: Clock | None = None
    ) -> None:
        self.problem: str | None = None
        self._damage: list[str] = []
        """What was set aside."""
        self._path, self._settings = folder / DATABASE, settings
        self._clock = clock or SystemClock()
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._database: CheckpointDatabase | None = None
        self._pending: list[Change] = []
        self._sequence = 0
        self._time = 0
        """Of the last change or checkpoint: no two have the same."""
        self._since_checkpoint = 0
        self._next_checkpoint = 0.0
        self._has_gap = False
        """Whether changes are missing, so that only a checkpoint has the state again."""

    async def __aenter__(self) -> Self:
        # A problem is reported, and the database is opened again later.
        with contextlib.suppress(Unavailable):
            await self._run(lambda database: None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.flush()
        finally:
            await asyncio.to_thread(self._thread.shutdown)
            if self._database is not None:
                self._database.close()

    @property
    def warnings(self) -> list[str]:
        """What an operator should know, one text each."""
        return [*self._damage, *([] if self.problem is None else [self.problem])]

    def accept(self, resources: Iterable[Resource], sequence: int) -> None:
        """Note resources that have changed; `sequence` is that of the bus after them."""
        self._sequence = sequence
        for resource in resources:
            self._pending.append((self._advance(), resource))
            self._since_checkpoint += 1
        if len(self._pending) > MAX_PENDING:
            del self._pending[: len(self._pending) - MAX_PENDING]
            self._has_gap = True

    async def run(self, list_resources: Callable[[], list[Resource]]) -> None:
        """Store changes and checkpoints until cancelled."""
        while True:
            await self.flush()
            is_due = (
                self._has_gap
                or self._since_checkpoint >= self._settings.max_changes
                or self._clock.monotonic() >= self._next_checkpoint
            )
            if is_due:
                await self.checkpoint(list_resources())
            await asyncio.sleep(FLUSH_INTERVAL)

    async def flush(self) -> None:
        """Store the changes in memory; where that fails, they stay there until the next time."""
        if not (changes := list(self._pending)):
            return
        sequence = self._sequence
        try:
            await self._run(lambda database: database.store_changes(changes, sequence))
        except Unavailable:
            return
        del self._pending[: len(changes)]

    async def checkpoint(self, resources: list[Resource]) -> None:
        """Store every resource as of now. A failure is reported, and tried again later."""
        time, sequence = self._advance(), self._sequence
        self._since_checkpoint = 0
        self._next_checkpoint = self._clock.monotonic() + self._settings.interval
        try:
            await self._run(lambda database: database.store_checkpoint(time, sequence, resources))
        except Unavailable:
            self._next_checkpoint = 0.0
        else:
            self._has_gap = False

    async def restore(self) -> StoredState | None:
        """Return the newest stored state and go on from there; None where none can be read."""
        try:
            state = await self.read_latest()
        except Unavailable as error:
            log.warning("no checkpoint could be read", reason=describe_error(error))
            return None
        if state is not None:
            self._time, self._sequence = max(self._time, state.time), state.sequence
        return state

    async def read_latest(self) -> StoredState | None:
        """Return the newest stored state; None without one. Raises `Unavailable`."""
        return await self._run(lambda database: database.read_latest())

    async def read_at(self, moment: int) -> dict[tuple[str, str, str], Resource] | None:
        """Return the resources as of a moment in microseconds since the epoch.

        None for a moment before the first checkpoint. Raises `Unavailable`.
        """
        # Before the database is read: what is flushed meanwhile is in both, and the same.
        pending = list(self._pending)
        state = await self._run(lambda database: database.read_at(moment))
        if state is None:
            return None
        apply_changes(state.resources, pending, 0, moment)
        return state.resources

    def _advance(self) -> int:
        self._time = max(self._clock.now(), self._time + 1)
        return self._time

    async def _run(self, work: Callable[[CheckpointDatabase], T]) -> T:
        """Run work on the database in its thread. Raises `Unavailable`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._try, work)

    def _try(self, work: Callable[[CheckpointDatabase], T]) -> T:
        try:
            if self._database is None:
                self._database = CheckpointDatabase(self._path, self._settings)
            result = work(self._database)
        except (sqlite3.Error, OSError, CheckpointsTooNewError, *DAMAGE) as error:
            self._handle(error)
            raise Unavailable(
                self.problem or f"the past of resources starts again: {describe_error(error)}"
            ) from error
        self.problem = None
        return result

    def _handle(self, error: Exception) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if isinstance(error, (DamagedCheckpointError, *DAMAGE)) or is_damage(error):
            self._start_over(error)
            return
        text = (
            str(error)
            if isinstance(error, CheckpointsTooNewError)
            else f"The state of resources cannot be stored in {self._path}:"
            f" {describe_error(error)}. Pages show the present state, and events are not affected."
            " Check the disk; writing is tried again."
        )
        if self.problem != text:
            log.error("the state of resources cannot be stored", reason=text)
        self.problem = text

    def _start_over(self, error: Exception) -> None:
        self._has_gap = True
        try:
            aside = set_aside(self._path, self._clock.now())
        except OSError as further:
            self.problem = (
                f"The database {self._path} is damaged and cannot be renamed:"
                f" {describe_error(further)}. Remove it."
            )
            return
        log.error(
            "the checkpoints are damaged and were set aside; the past starts with the next one",
            damage=describe_error(error),
            file=str(aside),
        )
        self._damage.append(
            f"The checkpoints were damaged and were set aside as {aside}; the past starts with the"
            " next one. Check the disk, and remove the file."
        )
