"""Records what becomes of resources: changes every few seconds, checkpoints every hour."""

import asyncio
import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Sequence
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
from almenara.state.checkpoint_codec import Change, DamagedCheckpointError, SharedResources
from almenara.state.checkpoints import (
    DATABASE,
    CheckpointDatabase,
    CheckpointsTooNewError,
    Note,
    SourceNote,
    StoredState,
    apply_changes,
)
from almenara.state.sample_schema import set_aside
from almenara.units import MILLISECOND

log = structlog.get_logger(__name__)

FLUSH_INTERVAL: Final = 10.0
NOTE_SLOT: Final = 20 * MILLISECOND
"""Microseconds of which one note is stored, the last: how exactly the log is known at a moment."""
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
        self._notes: list[Note] = []
        self._sources: list[SourceNote] = []
        """The sources as of the last note of them."""
        self._stored_sources: list[SourceNote] = []
        """The sources as of the last note that is stored."""
        self._noted = 0
        """The time of the last note that is stored."""
        self.earliest: int | None = None
        """The first moment whose state is stored, in microseconds since the epoch."""
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
            self.earliest = await self._run(lambda database: database.read_earliest())
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
        self._note()
        if len(self._pending) > MAX_PENDING:
            del self._pending[: len(self._pending) - MAX_PENDING]
            self._has_gap = True

    def note_sources(self, sources: list[SourceNote]) -> None:
        """Note the sources, as far as they have changed."""
        if sources != self._sources:
            self._sources = sources
            self._note(sources)

    def _note(self, sources: Sequence[SourceNote] | None = None) -> None:
        """Note how far the bus is; of each slot of time the last note is stored."""
        # Not before the changes that the sequence includes.
        time = max(self._clock.now(), self._time, self._noted + 1)
        if self._notes and self._notes[-1].time // NOTE_SLOT == time // NOTE_SLOT:
            last = self._notes.pop()
            sources = last.sources if sources is None else sources
        self._notes.append(Note(time, self._sequence, sources))
        if len(self._notes) > MAX_PENDING:
            del self._notes[: MAX_PENDING // 2]

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
        # A quiet log has a note as well, which shows that Almenara was running.
        self._note()
        changes, notes, sequence = list(self._pending), list(self._notes), self._sequence
        if notes[0].sources is None:
            # Each piece has the sources, so that no other is read for them.
            notes[0] = msgspec.structs.replace(notes[0], sources=self._stored_sources)
        self._noted = notes[-1].time

        def store(database: CheckpointDatabase) -> None:
            database.store_notes(notes)
            if changes:
                database.store_changes(changes, sequence)

        try:
            await self._run(store)
        except Unavailable:
            return
        del self._pending[: len(changes)]
        self._notes = [note for note in self._notes if note.time > notes[-1].time]
        self._stored_sources = next(
            (list(note.sources) for note in reversed(notes) if note.sources is not None), []
        )

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
            with contextlib.suppress(Unavailable):
                self.earliest = await self._run(lambda database: database.read_earliest())

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

    async def read_checkpoint(self, moment: int, shared: SharedResources) -> StoredState | None:
        """Return the last checkpoint up to a moment; None before the first.

        Raises `Unavailable`.
        """
        return await self._run(lambda database: database.read_checkpoint(moment, shared))

    async def read_steps(
        self, after: int, moment: int, shared: SharedResources
    ) -> list[Change] | None:
        """Return the changes that turn the resources as of one moment into those as of a later one,
        in their order; None where only a checkpoint has those. Raises `Unavailable`."""
        pending = [change for change in self._pending if after < change[0] <= moment]
        changes = await self._run(
            lambda database: (
                None
                if database.has_checkpoint(after, moment)
                else database.read_changes(after, moment, shared)
            )
        )
        # What was flushed meanwhile is in both, and the same.
        return None if changes is None else [*changes, *pending]

    async def read_changes(self, after: int, until: int) -> list[Change]:
        """Return the changes after one moment and up to another, in their order.

        Raises `Unavailable`.
        """
        pending = [change for change in self._pending if after < change[0] <= until]
        changes = await self._run(lambda database: database.read_changes(after, until))
        stored = changes[-1][0] if changes else 0
        return [*changes, *(change for change in pending if change[0] > stored)]

    async def read_notes(self, since: int, until: int) -> list[Note]:
        """Return the notes between two times, both included, and the last before with its sources.

        Raises `Unavailable`.
        """
        pending = list(self._notes)
        stored = await self._run(lambda database: database.read_notes(since, until))
        reached = stored[-1].time if stored else -1
        notes = [*stored, *(note for note in pending if note.time > reached)]
        notes = [note for note in notes if note.time <= until]
        first = next((place for place, note in enumerate(notes) if note.time > since), len(notes))
        sources = next(
            (note.sources for note in reversed(notes[:first]) if note.sources is not None), None
        )
        if not first:
            return notes
        return [msgspec.structs.replace(notes[first - 1], sources=sources), *notes[first:]]

    async def time_of(self, sequence: int) -> int | None:
        """Return when a signal of the bus was known; None where that is not noted.

        Raises `Unavailable`.
        """
        pending = list(self._notes)
        note = await self._run(lambda database: database.read_note_of(sequence))
        if note is None:
            note = next((note for note in pending if note.sequence >= sequence), None)
        return None if note is None else note.time

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
        # What is stored is damaged, and not what cannot be written to it.
        is_damaged = isinstance(error, (DamagedCheckpointError, *DAMAGE)) or is_damage(error)
        if is_damaged and not isinstance(error, UnicodeEncodeError):
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
