"""The bus of several replicas: a shared log, and an index of it on each replica.

A batch is appended to the log, and every replica applies the log to its own SQLite database. So
`publish` returns once the log has stored the batch and the local index has applied it. While the
log cannot be reached, pages show what the index has, publishers wait, and nothing is stored.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, TypeVar

import structlog

from almenara.bus import BusClosedError, BusCounters, Record, SnapshotStatus, StateChange
from almenara.bus.codec import Redact, RowDecoder
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.folder import set_aside
from almenara.bus.log_follower import LogDivergedError
from almenara.bus.log_link import LogLink
from almenara.bus.log_publisher import LogPublisher
from almenara.bus.log_state import FENCE, OWNER, POSITION, decode_position
from almenara.bus.schema import VERSION
from almenara.bus.snapshots import FILES, Manifest, SnapshotTooNewError, restore_snapshot
from almenara.bus.storage_errors import StorageError
from almenara.bus.validation import check_batch, check_state
from almenara.bus.work import PLACE_BITS
from almenara.bus.writer_thread import DATABASE
from almenara.clock import Clock
from almenara.config import StorageSettings
from almenara.errors import Unavailable, describe_error
from almenara.shared_log import LogBounds, LogSession, SharedLog
from almenara.signals import Signal

log = structlog.get_logger(__name__)

START_PATIENCE: Final = 10.0
"""Seconds that a start waits for the log, before pages are served without it."""
REACH_PATIENCE: Final = 3.0
"""Seconds that a page waits for a replica that is behind."""

T = TypeVar("T")


class SharedBus:
    """The bus of one replica. Use as an async context manager; it owns its index and a task."""

    def __init__(
        self,
        settings: StorageSettings,
        shared_log: SharedLog,
        redact: Redact | None = None,
        clock: Clock | None = None,
        *,
        start_patience: float = START_PATIENCE,
        schemas: Mapping[str, int] | None = None,
    ) -> None:
        """`schemas` are the newest that can be read, by the names of databases."""
        self.settings, self._log, self._clock = settings, shared_log, clock
        self._start_patience = start_patience
        self._schemas = schemas or {DATABASE: VERSION}
        self._too_new = ""
        """Why there are snapshots, and none that this version can read."""
        self._publisher = LogPublisher(settings, redact)
        self.select_stored: Callable[[Sequence[Signal], str], Sequence[Signal]] | None = None
        self.snapshot: SnapshotStatus | None = None
        self.list_replica_problems: Callable[[], list[str]] = list
        """Returns `replica_problems`, which the leases know."""
        self._closed = False

    async def __aenter__(self) -> Self:
        if not (self.settings.dir / DATABASE).exists():
            with suppress(Unavailable, TimeoutError):
                await self._restore_newest()
        try:
            await self._start()
        except LogDivergedError as error:
            # What the log has decides, not what this replica has.
            await self._start_over(error)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closed = True
        self._publisher.close()
        await self._stop()

    async def _start(self) -> None:
        """Open the index and follow the log. Raises `LogDivergedError` where they do not match."""
        self.index = await EmbeddedBus(self.settings, None, self._clock).__aenter__()
        try:
            position = decode_position(await self.index.load(OWNER, POSITION))
            end = 0 if position is None else position.end
            check_embedded_signals(self.index, end)
            self._link = LogLink(self._log, self.index, position, self._publisher.note_applied)
            self._publisher.link = self._link
            await self._link.start(self._start_patience)
        except BaseException:
            await self._stop()
            raise

    async def _start_over(self, reason: LogDivergedError) -> None:
        """Start from a snapshot, or from the first message of the log.

        Raises `StorageError` where the log does not have its first message any more, and no
        snapshot leads to what it has.
        """
        log.warning(
            "the history is built again from the shared log; what was in the folder is set aside",
            reason=str(reason),
            folder=str(self.settings.dir),
        )
        if await self._restore():
            try:
                await self._start()
            except LogDivergedError as error:
                # The snapshot has messages that the log has lost since.
                reason = error
            else:
                return
        if not await self._has_first_message():
            raise StorageError(
                f"This replica cannot follow the shared log: {reason}. There is no snapshot from"
                f" which it can start{self._too_new and ': '}{self._too_new}. Start a replica that"
                " has the history: it writes one. Or put a copy of its database into storage.dir,"
                f" as {DATABASE} (`almenara backup`)."
            )
        for name in FILES:
            if (self.settings.dir / name).exists():
                set_aside(self.settings.dir, name, "diverged")
        await self._start()

    async def _restore(self) -> bool:
        """Restore a snapshot; wait for a while for the one that another replica may be writing."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._start_patience
        while await self._restore_newest() is None:
            if await self._has_first_message() or clock() > deadline:
                return False
            await asyncio.sleep(self.settings.write_retry_interval)
        return True

    async def _restore_newest(self) -> Manifest | None:
        try:
            return await restore_snapshot(self.settings.dir, self._log, self._schemas)
        except SnapshotTooNewError as error:
            if not self._too_new:
                log.warning("no snapshot can be restored", reason=str(error))
            self._too_new = str(error)
            return None
        except (Unavailable, TimeoutError):
            raise
        except OSError as error:
            raise StorageError(
                f"A snapshot cannot be restored into {self.settings.dir}: {describe_error(error)}."
                " Free space there, or use a larger volume; the restore continues where it was."
            ) from error

    async def _has_first_message(self) -> bool:
        async with self._log.connect() as session:
            return (await session.bounds()).first <= 1

    async def _stop(self) -> None:
        if hasattr(self, "_link"):
            await self._link.close()
        await self.index.__aexit__(None, None, None)

    # -- writing

    async def publish(
        self,
        batch: Sequence[Signal],
        origin: str,
        changes: Sequence[StateChange] = (),
        token: int = 0,
    ) -> None:
        """As `Bus.publish`. `token` is that of the lease under which the source runs.

        Raises `FencedError` where the log has a newer token of the origin.
        """
        check_batch(batch)
        if self.select_stored is not None:
            stored = self.select_stored(batch, origin)
            self.counters.count_left_out(origin, len(batch) - len(stored))
            batch = stored
        await self._publisher.publish(batch, origin, changes, token, self.counters)

    async def save(self, plugin: str, key: str, value: bytes) -> None:
        """Store a plugin's value on all replicas. Raises `InvalidSignalError` for anything but
        bytes."""
        check_state(key, value)
        await self._publisher.publish((), plugin, ((plugin, key, value),), 0, self.counters)

    @property
    def lag(self) -> float:
        return self._link.follower.lag

    def distance(self, after: int, through: int) -> int:
        return (through >> PLACE_BITS) - (after >> PLACE_BITS)

    async def reach(self, sequence: int) -> None:
        """Wait until this replica has what another one has shown a browser, for some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REACH_PATIENCE):
                while self.last_sequence < sequence and not self._closed:
                    await self.index.advance()

    # -- for snapshots

    @property
    def shared_log(self) -> SharedLog:
        return self._log

    @property
    def bounds(self) -> LogBounds | None:
        """Which messages the log has, as last observed."""
        return self._link.follower.bounds

    @property
    def applied(self) -> int:
        """Position of the last message that the index has."""
        return self._link.follower.applied

    # -- for leases

    @property
    def session(self) -> LogSession | None:
        """The session that is open now."""
        return self._link.session

    async def wait_for_session(self) -> LogSession:
        """Return a session once the index has applied everything that the log had at its start.

        Raises `BusClosedError` where none will follow.
        """
        session = await self._link.wait_for_session(asyncio.get_running_loop().create_future())
        if session is None:
            raise BusClosedError("the bus is closed")
        return session

    async def newest_token(self, origin: str) -> int:
        """Return the newest token that the log has of an origin; 0 for none."""
        return int(await self.load(OWNER, f"{FENCE}{origin}") or 0)

    # -- reading

    async def load(self, plugin: str, key: str) -> bytes | None:
        """Return the value that a plugin stored, or None."""
        return await self.index.load(plugin, key)

    async def load_all(self, owner: str) -> dict[str, bytes]:
        return await self.index.load_all(owner)

    async def known_resources(self, source: str, kind: str = "") -> list[tuple[str, str, str]]:
        """Return the resources that a source has published and not deleted; of one kind or all."""
        return await self.index.known_resources(source, kind)

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        """Run a query of history with a reading connection, off the event loop."""
        return await self.index.read(query, caller)

    def subscribe(self, after: int) -> AsyncIterator[list[Record]]:
        return self.index.subscribe(after)

    @property
    def counters(self) -> BusCounters:
        return self.index.counters

    @property
    def decoder(self) -> RowDecoder:
        return self.index.decoder

    @property
    def last_sequence(self) -> int:
        return self.index.last_sequence

    @property
    def failure(self) -> str | None:
        if not self._closed and (failure := self._link.failure) is not None:
            return f"{failure} Restart Almenara."
        return self.index.failure

    @property
    def write_problem(self) -> str | None:
        if self._link.failure is not None:
            return self.failure
        if (problem := self._link.problem) is not None:
            return (
                f"The bus is not available: {problem.rstrip('.')}. Sources wait, and nothing is"
                " lost. Pages show what this replica has."
            )
        return self.index.write_problem

    @property
    def not_ready(self) -> str | None:
        """Why this replica should not serve yet; None once it has caught up with the log."""
        return self._link.not_ready

    @property
    def replica_problems(self) -> list[str]:
        return self.list_replica_problems()

    @property
    def warnings(self) -> list[str]:
        if self.snapshot is None or self.snapshot.is_usable:
            return self.index.warnings
        return [
            *self.index.warnings,
            "The shared bus starts after the newest snapshot: a replica with an empty folder cannot"
            " start. Lower bus.snapshot_interval, or raise the limits of the stream.",
        ]


def check_embedded_signals(index: EmbeddedBus, end: int) -> None:
    """Raise `StorageError` where the index has signals that are not of the shared log, which ends
    before the sequence `end`."""
    if index.last_sequence > end:
        raise StorageError(describe_embedded_history(index.settings.dir))


def describe_embedded_history(folder: Path) -> str:
    """Return why a folder cannot be that of a replica, and what to do."""
    return (
        f"The database in {folder} has signals that are not in the shared log: it was written while"
        " `bus.kind` was `embedded`. Set storage.dir to an empty folder; the history of the shared"
        " log is built there. To continue the history of this folder, set `bus.kind` to `embedded`,"
        " or run `almenara bus copy --to shared`."
    )
