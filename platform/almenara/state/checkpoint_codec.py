"""How resources and notes are stored in the database of checkpoints: in compressed parts."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from almenara.signals import Resource

LEVEL: Final = 3
"""Of zlib: a checkpoint is read as quickly at any, and written in half the time of the default."""
PART: Final = 200
"""Resources that are encoded and decoded at once, so that others get the interpreter in between."""
REMEMBERED_CHANGES: Final = 3_000
"""Changes whose resources `SharedResources` remembers beside those of the last two checkpoints."""
DIGEST: Final = 16
"""Bytes: no two resources that differ have the same digest."""

Change = tuple[int, Resource]
"""When a resource changed, in microseconds since the epoch, and what it is since."""


class DamagedCheckpointError(sqlite3.DatabaseError):
    """The bytes of a checkpoint are not what was written."""


def encode_parts(values: Sequence[object]) -> bytes:
    """Return values in parts, each of which takes a few milliseconds to decode."""
    out = bytearray()
    for first in range(0, len(values), PART):
        body = zlib.compress(msgspec.json.encode(values[first : first + PART]), LEVEL)
        out += len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
    return bytes(out)


def decode_parts(body: bytes, kind: Any) -> Iterator[Any]:
    """Yield the values of each part of a stored body. Raises `DamagedCheckpointError`."""
    decode = msgspec.json.Decoder(kind).decode
    place = 0
    while place < len(body):
        length = int.from_bytes(body[place : place + 4], "little")
        checksum = int.from_bytes(body[place + 4 : place + 8], "little")
        part = body[place + 8 : place + 8 + length]
        if zlib.crc32(part) != checksum:
            raise DamagedCheckpointError("the checksum of a checkpoint is wrong")
        yield decode(zlib.decompress(part))
        place += 8 + length


def decode_resources(body: bytes) -> Iterator[Resource]:
    """Yield the resources of a checkpoint. Raises `DamagedCheckpointError`."""
    for part in decode_parts(body, list[Resource]):
        yield from part


def decode_changes(body: bytes, after: int, until: int) -> Iterator[Change]:
    """Yield the changes after one moment and up to another. Raises `DamagedCheckpointError`."""
    for part in decode_parts(body, list[Change]):
        yield from (change for change in part if after < change[0] <= until)


class SharedResources:
    """Decodes stored resources; one that was decoded before is the same object again.

    Successive checkpoints have nearly all resources in common, and comparing digests takes a fifth
    of the time of decoding, and no memory. It remembers the resources of the last two checkpoints
    that it decoded, and some of changes. For one thread at a time.
    """

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(Resource).decode
        self._recent: dict[bytes, Resource] = {}
        self._older: dict[bytes, Resource] = {}
        self._limit = REMEMBERED_CHANGES
        self.decoded = 0
        """How many resources were not remembered."""

    def decode_resources(self, body: bytes) -> Iterator[Resource]:
        """Yield the resources of a checkpoint. Raises `DamagedCheckpointError`."""
        fresh: dict[bytes, Resource] = {}
        for part in decode_parts(body, list[msgspec.Raw]):
            for raw in part:
                yield self._find(raw, fresh)
        self._older, self._recent = self._recent, fresh
        self._limit = len(fresh) + REMEMBERED_CHANGES

    def decode_changes(self, body: bytes, after: int, until: int) -> Iterator[Change]:
        """Yield the changes after one moment and up to another. Raises `DamagedCheckpointError`."""
        for part in decode_parts(body, list[tuple[int, msgspec.Raw]]):
            for time, raw in part:
                if after < time <= until:
                    yield time, self._find(raw, self._recent)
        if len(self._recent) > self._limit:
            self._older, self._recent = self._recent, {}

    def _find(self, raw: msgspec.Raw, remembered: dict[bytes, Resource]) -> Resource:
        """Return a resource, decoded where it is not remembered, and remember it."""
        digest = hashlib.blake2b(raw, digest_size=DIGEST).digest()
        resource = self._recent.get(digest) or self._older.get(digest)
        if resource is None:
            self.decoded += 1
            resource = self._decode(raw)
        remembered[digest] = resource
        return resource
