"""Messages of a shared log: how a batch is written into them, and read back by every replica.

A batch is msgpack, compressed with zstd and cut into parts that the log accepts. Each part starts
with a header: a mark with the version of the format, the id of the batch, the number of the part
and how many there are. A batch is applied at the position of its last part, which the publisher
appends after all others, so that it is complete or not in the log.
"""

import struct
import sys
from typing import Final

import msgspec

from almenara.bus.wire import WireSignal
from almenara.shared_log import LogMessage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MARK: Final = b"ALM\x01"
HEADER: Final = struct.Struct(">4s16sHH")
LEVEL: Final = 3
MAX_PARTS: Final = 0xFFFF
LARGEST: Final = 1024**3
"""Bytes of a decompressed batch."""
MAX_OPEN_DISTANCE: Final = 10_000
"""Messages after the first part of a batch at which an incomplete one is given up. Counted in
messages, so that all replicas decide alike."""


class LogBatch(msgspec.Struct, array_like=True):
    """A batch as a replica publishes it: checked and masked, before deduplication."""

    origin: str
    token: int
    """Token of the lease under which it was published; 0 where none is needed."""
    signals: list[WireSignal] = []
    changes: list[tuple[str, str, bytes | None]] = []
    """Owner, key and value of stored values; None deletes one."""


class Part(msgspec.Struct, frozen=True):
    """A part of a batch."""

    batch: bytes
    number: int
    count: int
    content: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LogBatch).decode


class BatchTooLargeError(ValueError):
    """A batch does not fit into the messages of the log."""


def encode_batch(batch: LogBatch, batch_id: bytes, max_bytes: int) -> list[bytes]:
    """Return the payloads of the messages of a batch, at most `max_bytes` each.

    `batch_id` has 16 bytes. Raises `BatchTooLargeError`.
    """
    content = zstd.compress(_encode(batch), LEVEL)
    size = max_bytes - HEADER.size
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    if len(pieces) > MAX_PARTS:
        raise BatchTooLargeError(f"it would be {len(pieces):,} messages of the log")
    return [
        HEADER.pack(MARK, batch_id, number, len(pieces)) + piece
        for number, piece in enumerate(pieces)
    ]


def parse_part(payload: bytes) -> Part:
    """Return the part in a payload. Raises `ValueError` for anything else."""
    if len(payload) < HEADER.size:
        raise ValueError("it is shorter than the header of a batch")
    mark, batch, number, count = HEADER.unpack_from(payload)
    if mark[:3] != MARK[:3]:
        raise ValueError("it is not a batch of Almenara")
    if mark != MARK:
        raise ValueError(f"it has version {mark[3]} of the format; upgrade this replica")
    if number >= count:
        raise ValueError(f"it is part {number} of {count}")
    return Part(batch, number, count, payload[HEADER.size :])


def decode_batch(content: bytes) -> LogBatch:
    """Return the batch in the joined parts. Raises `ValueError`."""
    decompressor = zstd.ZstdDecompressor()
    try:
        data = decompressor.decompress(content, max_length=LARGEST)
    except zstd.ZstdError as error:
        raise ValueError(f"its content is damaged: {error}") from None
    if not decompressor.eof:
        raise ValueError(f"its content is incomplete, or larger than {LARGEST:,} bytes")
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"its content is not a batch: {error}") from None


class OpenBatch(msgspec.Struct):
    """A batch of which not all parts have been read."""

    first: int
    """Position of the first part that was read."""
    count: int
    parts: dict[int, bytes]


class PartAssembler:
    """Joins the parts of batches; those of several publishers may be mixed."""

    def __init__(self) -> None:
        self._open: dict[bytes, OpenBatch] = {}

    def add(self, message: LogMessage, *, is_repeated: bool = False) -> tuple[bytes, bytes] | None:
        """Return the id and the content of the batch that a message completes; None where parts
        are missing. Raises `ValueError` for a message that is not a part.

        `is_repeated` for a message that was read before: its batch may be complete, and was so
        before the first part that is read again. So a batch starts with its first part only.
        """
        self._give_up(message.position)
        part = parse_part(message.payload)
        if part.count == 1:
            return part.batch, part.content
        batch = self._open.get(part.batch)
        if batch is None or batch.count != part.count:
            if is_repeated and part.number:
                return None
            batch = self._open[part.batch] = OpenBatch(message.position, part.count, {})
        batch.parts[part.number] = part.content
        if len(batch.parts) < batch.count:
            return None
        del self._open[part.batch]
        return part.batch, b"".join(batch.parts[number] for number in range(batch.count))

    def resume_at(self, position: int) -> int:
        """Return where reading must start again, so that no part of what is incomplete after
        `position` is missing."""
        return min((batch.first for batch in self._open.values()), default=position + 1)

    def _give_up(self, position: int) -> None:
        for batch_id, batch in list(self._open.items()):
            if position - batch.first > MAX_OPEN_DISTANCE:
                del self._open[batch_id]
