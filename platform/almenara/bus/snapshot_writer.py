"""Writes snapshots, on the replica that has the lease for it."""

import asyncio
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import msgspec
import structlog

from almenara import __version__
from almenara.bus import SnapshotStatus, StateChange
from almenara.bus.backup import copy_database, copy_file
from almenara.bus.log_state import OWNER, POSITION, SNAPSHOT, decode_position
from almenara.bus.snapshots import (
    FILES,
    Manifest,
    SnapshotFile,
    check_space,
    encode_manifest,
    encode_part,
    part_name,
    read_manifests,
    read_parts,
    read_schema,
)
from almenara.bus.work import LogPosition
from almenara.bus.writer_thread import DATABASE
from almenara.clock import now
from almenara.config import BusSettings
from almenara.errors import AlmenaraError, describe_error
from almenara.shared_log import LogBounds, LogSession, SharedLog, SharedObjects
from almenara.signals import Signal
from almenara.units import SECOND

log = structlog.get_logger(__name__)

ORIGIN: Final = "almenara/snapshots"
COPIES: Final = "snapshot"
"""Folder with the copies of the databases while a snapshot is written."""
CHECK_INTERVAL: Final = 5.0
EARLIEST: Final = 30.0
"""Seconds between two snapshots at least, whatever the limits of the log."""
RETRY_INTERVAL: Final = 60.0
"""Seconds until a snapshot that failed is tried again."""


class SnapshotRecord(msgspec.Struct, frozen=True):
    """The newest snapshot, as the log has it."""

    created: int
    """Microseconds since 1970."""
    resume_at: int
    """Position of the first message that a replica which starts from it needs."""


class Publish(Protocol):
    """Publishes under the lease for snapshots."""

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None: ...


class SnapshotSource(Protocol):
    """What snapshots need from the bus of a replica."""

    snapshot: SnapshotStatus | None

    async def load(self, plugin: str, key: str) -> bytes | None:
        """Return a stored value."""

    @property
    def bounds(self) -> LogBounds | None:
        """Which messages the log has, as last observed; None while that is not known."""

    @property
    def applied(self) -> int:
        """Position of the last message that the index has."""


class SnapshotWriter:
    """Writes snapshots of one folder."""

    def __init__(
        self,
        folder: Path,
        shared_log: SharedLog,
        settings: BusSettings,
        replica: str,
        system_time: Callable[[], int] = now,
        steady_time: Callable[[], float] = monotonic,
    ) -> None:
        self.folder, self._log, self.settings = folder, shared_log, settings
        self.replica, self._now, self._monotonic = replica, system_time, steady_time
        self.written_at = -math.inf
        """When this process has written its last snapshot."""

    async def watch(self, bus: SnapshotSource) -> None:
        """Report the newest snapshot to the bus, on every replica, until cancelled."""
        while True:
            if bus.bounds is not None:
                with suppress(AlmenaraError, sqlite3.Error):
                    record = await read_record(bus)
                    created = 0 if record is None else record.created
                    bus.snapshot = SnapshotStatus(created, is_usable(record, bus.bounds))
            await asyncio.sleep(CHECK_INTERVAL)

    async def run(self, bus: SnapshotSource, publisher: Publish) -> None:
        """Write a snapshot whenever one is due, until cancelled."""
        while True:
            pause = CHECK_INTERVAL
            try:
                if self.is_due(await read_record(bus), bus):
                    await self.write(publisher)
            except (AlmenaraError, OSError, sqlite3.Error) as error:
                log.warning("no snapshot could be written", reason=describe_error(error))
                pause = min(RETRY_INTERVAL, self.settings.snapshot_interval)
            except Exception:
                # A replica serves pages and runs sources without it.
                log.exception("no snapshot could be written")
                pause = RETRY_INTERVAL
            await asyncio.sleep(pause)

    def is_due(self, record: SnapshotRecord | None, bus: SnapshotSource) -> bool:
        """Whether a snapshot should be written: after the interval, and earlier where the log soon
        starts after the newest one."""
        if record is None:
            return True
        # The record itself is one message.
        if bus.applied <= record.resume_at:
            return False
        age, interval = (self._now() - record.created) / SECOND, self.settings.snapshot_interval
        if age < 0:
            # The clock of its writer was ahead, or that of this replica is behind: nothing is known
            # of its age. What this process has written itself is in order by another clock.
            return self._monotonic() - self.written_at >= min(EARLIEST, interval)
        if age >= interval:
            return True
        is_close = bus.bounds is not None and is_close_to_start(record, bus.bounds)
        return is_close and age >= min(EARLIEST, interval)

    async def write(self, publisher: Publish | None) -> Manifest:
        """Write a snapshot and delete what is older than the newest ones.

        With a publisher, the log records it. Raises `Unavailable`, also where another replica has
        the lease by now; `OSError` and `sqlite3.Error`.
        """
        copies, stopping = self.folder / COPIES, threading.Event()
        try:
            position = await asyncio.to_thread(
                _copy_databases, self.folder, copies, stopping.is_set
            )
            async with self._log.connect() as session:
                objects = session.snapshots
                names = await objects.names()
                files = [
                    await _store_file(copies / name, objects, names)
                    for name in FILES
                    if (copies / name).exists()
                ]
                manifest = Manifest(
                    created=self._now(), replica=self.replica, identity=position.identity,
                    position=position.position, files=files, almenara=__version__,
                )  # fmt: skip
                await objects.put(manifest.name, encode_manifest(manifest))
                if publisher is not None:
                    # Refused where another replica writes snapshots by now: nothing is deleted.
                    await publisher.publish((), ORIGIN, [record_change(manifest)])
                await self._delete_old(session, manifest)
        finally:
            # A thread goes on when its caller is cancelled, and would delay the end of the process.
            stopping.set()
            await self.remove_copies()
        self.written_at = self._monotonic()
        log.info("a snapshot was written", position=manifest.position, size=manifest.size)
        return manifest

    async def remove_copies(self) -> None:
        """Remove what a snapshot, also of a process that was killed, has left in the folder."""
        await asyncio.to_thread(shutil.rmtree, self.folder / COPIES, ignore_errors=True)

    async def _delete_old(self, session: LogSession, written: Manifest) -> None:
        objects = session.snapshots
        manifests = await read_manifests(objects, await objects.names())
        # Requested after them, so that it is not older than any.
        bounds = await session.bounds()
        manifests = [
            manifest
            for manifest in manifests
            # One that is later than the log is of messages that the log has lost.
            if manifest.identity == written.identity and manifest.position <= bounds.last
        ]
        retained = manifests[: self.settings.snapshot_count]
        names = {manifest.name for manifest in retained}
        await objects.retain(names.union(*(manifest.parts for manifest in retained)))


def is_close_to_start(record: SnapshotRecord, bounds: LogBounds) -> bool:
    """Whether limits have deleted so much of the log that less than half of what it has is older
    than a snapshot."""
    return bounds.first > 1 and record.resume_at - bounds.first < (bounds.last - bounds.first) / 2


def is_usable(record: SnapshotRecord | None, bounds: LogBounds) -> bool:
    """Whether a replica without a history can start: from a snapshot, or from the first message of
    the log."""
    return bounds.first <= 1 or (record is not None and bounds.first <= record.resume_at)


def record_change(manifest: Manifest) -> StateChange:
    """Return the stored value that records a snapshot."""
    record = SnapshotRecord(manifest.created, manifest.position + 1)
    return (OWNER, SNAPSHOT, msgspec.json.encode(record))


async def read_record(bus: SnapshotSource) -> SnapshotRecord | None:
    """Return the newest snapshot that the log has recorded."""
    value = await bus.load(OWNER, SNAPSHOT)
    return None if value is None else msgspec.json.decode(value, type=SnapshotRecord)


def _copy_databases(folder: Path, target: Path, is_cancelled: Callable[[], bool]) -> LogPosition:
    """Copy the databases and return how far the copy has applied the log."""
    shutil.rmtree(target, ignore_errors=True)
    check_space(folder)
    target.mkdir(mode=0o700)
    for name in FILES:
        if name != DATABASE and (folder / name).exists():
            copy_file(folder / name, target / name, lambda _: None, is_cancelled)
    copy_database(folder, target / DATABASE, is_cancelled)
    with closing(sqlite3.connect(target / DATABASE)) as connection:
        row = connection.execute(
            "SELECT value FROM plugin_state WHERE plugin = ? AND key = ?", (OWNER, POSITION)
        ).fetchone()
        # Closed without a write-ahead log beside it, so that the file is complete.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    position = decode_position(row[0]) if row else None
    if position is None:
        raise OSError("the database has nothing of the shared log yet")
    return position


async def _store_file(path: Path, objects: SharedObjects, names: set[str]) -> SnapshotFile:
    """Store the parts of a file that are not stored yet."""
    digests: list[str] = []
    size = 0
    parts: Iterator[tuple[str, bytes]] = read_parts(path)
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        digest, content = part
        name = part_name(digest)
        if name not in names:
            await objects.put(name, await asyncio.to_thread(encode_part, content))
            names.add(name)
        digests.append(digest)
        size += len(content)
    schema = await asyncio.to_thread(read_schema, path)
    return SnapshotFile(path.name, size, digests, schema)
