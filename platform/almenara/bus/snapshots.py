"""Snapshots of the databases of a replica, in a store that all replicas share.

A snapshot is a manifest and parts. A part is a range of a database file, compressed, with the
digest of its content as its name: what has not changed since the snapshot before is not stored
again, and an interrupted snapshot or restore continues with what is there. A snapshot exists once
its manifest does, which is stored last.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog

from almenara import __version__
from almenara.bus.folder import FolderLock, prepare_folder, set_aside
from almenara.bus.writer_thread import DATABASE
from almenara.errors import Unavailable
from almenara.shared_log import LogBounds, SharedLog, SharedObjects

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = structlog.get_logger(__name__)

FILES: Final = ("samples.db", "resources.db", DATABASE)
"""In the order in which they are copied and restored. The database of the bus is the last: what
the others miss of it, they read from it."""
VERSION: Final = 1
PART: Final = 4 * 1024**2
"""Bytes of a file that are one part."""
LEVEL: Final = 3
MANIFEST: Final = "snapshot-"
RESTORED: Final = "restored"
"""Suffix of a file while it is restored."""
LARGEST_MANIFEST: Final = 256 * 1024**2
USER_VERSION_AT: Final = 60
"""Where the header of a database file has the version of its schema."""


class SnapshotFile(msgspec.Struct, frozen=True):
    """A database of a snapshot."""

    name: str
    size: int
    parts: list[str]
    """Digests (SHA-256) of its ranges of `PART` bytes."""
    schema: int = 0
    """Version of its schema; 0 where the writer did not record it."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot consists of."""

    version: int = VERSION
    created: int
    """Microseconds since 1970."""
    replica: str
    identity: str
    """Of the shared log; see `shared_log.LogBounds`."""
    position: int
    """Position of the last message of the log that the snapshot has."""
    files: list[SnapshotFile]
    almenara: str = ""
    """Version of Almenara that wrote it; empty where it did not record it."""

    @property
    def name(self) -> str:
        return f"{MANIFEST}{self.position:020d}"

    @property
    def parts(self) -> set[str]:
        return {part_name(digest) for file in self.files for digest in file.parts}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def leads_to(self, bounds: LogBounds) -> bool:
        """Whether the log has everything that follows the snapshot."""
        return (
            self.identity == bounds.identity
            and bounds.first <= self.position + 1
            and self.position <= bounds.last
        )

    def is_readable(self, schemas: Mapping[str, int]) -> bool:
        """Whether no database has a newer schema than those that are read here, by its name."""
        return all(file.schema <= schemas.get(file.name, file.schema) for file in self.files)


class SnapshotDamagedError(Unavailable):
    """A snapshot cannot be read; the text has the reason."""


class SnapshotTooNewError(Unavailable):
    """A newer Almenara wrote the snapshots; the text has the versions and a remedy."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(
            f"the snapshots of the bus were written by Almenara {manifest.almenara}, whose"
            f" databases this version ({__version__}) cannot read. Upgrade this replica"
        )


def part_name(digest: str) -> str:
    """Return the name of the object with a part."""
    return f"part-{digest}"


def digest_of(content: bytes) -> str:
    """Return the digest of the content of a part."""
    return sha256(content).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the content of the object with a manifest."""
    return zstd.compress(msgspec.json.encode(manifest), LEVEL)


def decode_manifest(content: bytes) -> Manifest:
    """Return the manifest in an object. Raises `SnapshotDamagedError`."""
    try:
        manifest = msgspec.json.decode(_decompress(content, LARGEST_MANIFEST), type=Manifest)
    except (msgspec.MsgspecError, zstd.ZstdError) as error:
        raise SnapshotDamagedError(f"the manifest of a snapshot is damaged: {error}") from None
    if manifest.version != VERSION:
        raise SnapshotDamagedError(
            f"a snapshot has version {manifest.version} of the format; upgrade this replica"
        )
    for file in manifest.files:
        if file.name not in FILES or len(file.parts) != -(-file.size // PART):
            raise SnapshotDamagedError("the manifest of a snapshot is not valid")
    return manifest


def encode_part(content: bytes) -> bytes:
    """Return the content of the object with a part."""
    return zstd.compress(content, LEVEL)


def decode_part(content: bytes, digest: str) -> bytes:
    """Return the part in an object. Raises `SnapshotDamagedError`."""
    try:
        data = _decompress(content, PART)
    except zstd.ZstdError:
        data = b""
    if digest_of(data) != digest:
        raise SnapshotDamagedError(f"the part {digest} of a snapshot is damaged")
    return data


def _decompress(content: bytes, limit: int) -> bytes:
    return bytes(zstd.ZstdDecompressor().decompress(content, max_length=limit))


async def read_manifests(objects: SharedObjects, names: set[str]) -> list[Manifest]:
    """Return the snapshots that can be read, the newest first. Raises `Unavailable`."""
    manifests = []
    for name in sorted((name for name in names if name.startswith(MANIFEST)), reverse=True):
        content = await objects.get(name)
        if content is None:
            continue
        try:
            manifests.append(decode_manifest(content))
        except SnapshotDamagedError as error:
            log.warning("a snapshot cannot be used", name=name, reason=str(error))
    return manifests


async def restore_snapshot(
    folder: Path, shared_log: SharedLog, schemas: Mapping[str, int]
) -> Manifest | None:
    """Restore the newest snapshot that leads to the log into a folder; databases that are there are
    set aside.

    `schemas` are the newest schemas that can be read, by database. Returns None where there is no
    such snapshot. An interrupted restore continues where it was. Raises `SnapshotTooNewError`,
    `Unavailable`, `FolderInUseError` and `OSError`.
    """
    prepare_folder(folder)
    too_new: Manifest | None = None
    lock = FolderLock.acquire(folder)
    try:
        async with shared_log.connect() as session:
            bounds, objects = await session.bounds(), session.snapshots
            for manifest in await read_manifests(objects, await objects.names()):
                if not manifest.leads_to(bounds):
                    continue
                if not manifest.is_readable(schemas):
                    # Found out before anything is read: it may be large.
                    too_new = too_new or manifest
                    continue
                log.info("a snapshot is restored", position=manifest.position, size=manifest.size)
                try:
                    await _restore(folder, manifest, objects)
                except SnapshotDamagedError as error:
                    log.warning("a snapshot cannot be restored", reason=str(error))
                else:
                    return manifest
        if too_new is not None:
            raise SnapshotTooNewError(too_new)
        return None
    finally:
        lock.release()


async def _restore(folder: Path, manifest: Manifest, objects: SharedObjects) -> None:
    files = sorted(manifest.files, key=lambda file: FILES.index(file.name))
    for file in files:
        await _restore_file(folder / f"{file.name}.{RESTORED}", file, objects)
    for file in files:
        await asyncio.to_thread(_put_in_place, folder, file.name)


async def _restore_file(path: Path, file: SnapshotFile, objects: SharedObjects) -> None:
    """Write a file, except for ranges that an interrupted restore has written already."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as target:
        for number, digest in enumerate(file.parts):
            size = min(PART, file.size - number * PART)
            if await asyncio.to_thread(_has_part, target, number * PART, size, digest):
                continue
            data = await _read_part(objects, digest)
            await asyncio.to_thread(_write, target, number * PART, data)
        await asyncio.to_thread(_finish_file, target, file.size)


async def _read_part(objects: SharedObjects, digest: str) -> bytes:
    """Return a part of a file. Raises `SnapshotDamagedError`, and discards what is damaged: the
    next snapshot would not store it again, and no later one could be restored."""
    name = part_name(digest)
    content = await objects.get(name)
    try:
        if content is not None:
            return await asyncio.to_thread(decode_part, content, digest)
    except SnapshotDamagedError:
        await objects.discard(name)
        raise
    await objects.discard(name)
    raise SnapshotDamagedError(f"the part {digest} of a snapshot is missing")


def _has_part(target: BinaryIO, start: int, size: int, digest: str) -> bool:
    target.seek(start)
    return digest_of(target.read(size)) == digest


def _write(target: BinaryIO, start: int, data: bytes) -> None:
    target.seek(start)
    target.write(data)
    target.flush()


def _finish_file(target: BinaryIO, size: int) -> None:
    target.truncate(size)
    target.flush()
    os.fsync(target.fileno())


def _put_in_place(folder: Path, name: str) -> None:
    if (folder / name).exists():
        set_aside(folder, name, "diverged")
    for ending in ("-wal", "-shm"):
        (folder / f"{name}{ending}").unlink(missing_ok=True)
    (folder / f"{name}.{RESTORED}").rename(folder / name)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_schema(path: Path) -> int:
    """Return the version of the schema in the header of a database file, `PRAGMA user_version`
    (https://www.sqlite.org/fileformat.html#user_version_number)."""
    with path.open("rb") as file:
        header = file.read(USER_VERSION_AT + 4)
    return int.from_bytes(header[USER_VERSION_AT:], "big", signed=True)


def read_parts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of a file with their digests."""
    with path.open("rb") as file:
        while content := file.read(PART):
            yield digest_of(content), content


def check_space(folder: Path) -> None:
    """Raise `Unavailable` where the disk has no space for a copy of the databases."""
    needed = sum((folder / name).stat().st_size for name in FILES if (folder / name).exists())
    free = shutil.disk_usage(folder).free
    if free < needed + PART:
        raise Unavailable(
            f"a snapshot needs {needed:,} bytes in {folder}, and {free:,} are free. Use a larger"
            " volume, or lower storage.retention_size"
        )
