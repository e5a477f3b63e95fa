"""The format of a sealed block: events as compressed columns, with a checksum of each.

    b"ALMB" version:1 | length of header:4 | CRC-32 of header:4 | header (JSON) | columns

The header has the number of events, and for each column its name, kind, stored length and the
CRC-32 of what is stored. Columns are compressed with zstd; those of version 1 with zlib; short ones
follow a zero byte. Numbers are little-endian. Kinds:

- `numbers`: 8 bytes each, the difference to the number before;
- `levels`: 1 byte each;
- `names`: the distinct texts as a JSON array, preceded by its length in 4 bytes, then the place of
  each event's text in it, 2 bytes each; the array may contain null;
- `texts` and `bytes`: the length of each in 4 bytes, -1 for null, then all of them in one piece.

The names in a block are texts, so that a block can be read without any other table.
"""

import itertools
import operator
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, TypeVar
from zlib import crc32

import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

MAGIC: Final = b"ALMB"
VERSION: Final = 2
LEVEL: Final = 3
PLAIN_BYTES: Final = 1_000
"""Up to here a column is not compressed: to prepare for reading it would take longer than that."""
COMPRESSED_IN_STEP: Final = 256 * 1024
_PREFIX: Final = struct.Struct("<4sBII")
_LENGTH: Final = struct.Struct("<I")
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: LEVEL,
    zstd.CompressionParameter.checksum_flag: 1,
}
_PLAIN: Final = b"\0"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


def compress(content: bytes) -> bytes:
    """Return content compressed, with a checksum; `decompress` reverses it."""
    return zstd.compress(content, options=_OPTIONS)


def decompress(content: bytes) -> bytes:
    """Return what was compressed, also by version 1, or is plain. Raises `DamagedBlockError`."""
    if content.startswith(_PLAIN):
        return content[1:]
    try:
        if not content.startswith(_ZSTD_MAGIC):
            return zlib.decompress(content)
        decompressor = zstd.ZstdDecompressor()
        decompressed = decompressor.decompress(content)
    except (zlib.error, zstd.ZstdError) as error:
        raise DamagedBlockError(f"compressed content is damaged: {error}") from error
    if not decompressor.eof:
        raise DamagedBlockError("compressed content is damaged: it is cut off")
    return decompressed


def finish(steps: Generator[None, None, T]) -> T:
    """Run all steps of work that is done in steps, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            result: T = stopped.value
            return result


class DamagedBlockError(ValueError):
    """A block is not as it was written, or of a newer format."""


class ColumnHeader(msgspec.Struct, array_like=True):
    """Where a column is, and how to check it."""

    name: str
    kind: str
    length: int
    checksum: int


class Header(msgspec.Struct):
    """What stands before the columns."""

    events: int
    columns: list[ColumnHeader]


Entry = tuple[Any, ...]
"""An event of a block: the columns `EVENT_COLUMNS` without the checksum, with names as text."""

_COLUMNS: Final = (
    ("sequence", "numbers", 0),
    ("time", "numbers", 6),
    ("severity", "levels", 7),
    ("source", "names", 2),
    ("origin", "names", 3),
    ("type", "names", 4),
    ("subject", "names", 5),
    ("correlation", "names", 8),
    ("attributes", "names", 9),
    ("problem", "names", 10),
    ("id", "texts", 1),
    ("data", "texts", 12),
    ("raw", "bytes", 11),
)
"""Name, kind and place in an entry of each column."""

Column = tuple[ColumnHeader, bytes]


def encode_columns(entries: Sequence[Entry]) -> Generator[None, None, list[Column]]:
    """Return the columns of events; yield after each short step."""
    values = list(zip(*entries, strict=True))
    encoded: list[Column] = []
    done = 0
    for name, kind, place in _COLUMNS:
        content = _ENCODERS[kind](values[place])
        if len(content) <= PLAIN_BYTES:
            plain = _PLAIN + content
            encoded.append((ColumnHeader(name, kind, len(plain), crc32(plain)), plain))
            continue
        compressor = zstd.ZstdCompressor(LEVEL)
        compressor.set_pledged_input_size(len(content))
        parts = []
        for start in range(0, len(content), COMPRESSED_IN_STEP):
            part = content[start : start + COMPRESSED_IN_STEP]
            parts.append(compressor.compress(part))
            done += len(part)
            if done >= COMPRESSED_IN_STEP:
                yield
                done = 0
        stored = b"".join((*parts, compressor.flush()))
        encoded.append((ColumnHeader(name, kind, len(stored), crc32(stored)), stored))
    return encoded


def join_columns(events: int, columns: Sequence[Column]) -> bytes:
    """Return the block of the columns of a number of events."""
    header = msgspec.json.encode(Header(events, [column for column, _ in columns]))
    prefix = _PREFIX.pack(MAGIC, VERSION, len(header), crc32(header))
    return b"".join((prefix, header, *(stored for _, stored in columns)))


def encode_block(entries: Sequence[Entry]) -> bytes:
    """Return events, in order of their sequences, as a block; the same events give the same."""
    return join_columns(len(entries), finish(encode_columns(entries)))


class Block:
    """A block that decompresses a column when it is first read.

    Raises `DamagedBlockError` where the header or any column is damaged.
    """

    def __init__(self, content: bytes) -> None:
        try:
            magic, version, length, checksum = _PREFIX.unpack_from(content)
            header = content[_PREFIX.size : _PREFIX.size + length]
            if magic != MAGIC or crc32(header) != checksum:
                raise DamagedBlockError("the header of a block is damaged")
            if version > VERSION:
                raise DamagedBlockError(f"a block has the format {version}; upgrade Almenara")
            decoded = msgspec.json.decode(header, type=Header)
        except (struct.error, TypeError, msgspec.MsgspecError) as error:
            raise DamagedBlockError("the header of a block is damaged") from error
        self.events = decoded.events
        ends = list(
            itertools.accumulate(
                (column.length for column in decoded.columns), initial=_PREFIX.size + length
            )
        )
        self._columns: dict[str, bytes] = {}
        for column, start in zip(decoded.columns, ends, strict=False):
            stored = content[start : start + column.length]
            if len(stored) != column.length or crc32(stored) != column.checksum:
                raise DamagedBlockError(f"the column {column.name} of a block is damaged")
            self._columns[column.name] = stored
        self._decoded: dict[str, Any] = {}
        self.size = len(content)
        """Bytes of the content, and of the columns that were decompressed."""

    def numbers(self, name: str) -> list[int]:
        """Return a column of numbers or levels."""
        values: list[int] = self._read(name, _decode_numbers)
        return values

    def names(self, name: str) -> tuple[list[str | None], Sequence[int]]:
        """Return the distinct texts of a column, and the place of each event's text in them."""
        values: tuple[list[str | None], Sequence[int]] = self._read(name, _decode_names)
        return values

    def texts(self, name: str) -> tuple[bytes, list[int], Sequence[int]]:
        """Return all texts in one piece, where each starts, and the length of each; -1 for null."""
        values: tuple[bytes, list[int], Sequence[int]] = self._read(name, _decode_texts)
        return values

    def _read(self, name: str, decode: Callable[[bytes, int], Any]) -> Any:
        if (known := self._decoded.get(name)) is None:
            content = decompress(self._columns[name])
            known = self._decoded[name] = decode(content, self.events)
            self.size += len(content)
        return known

    def derive(self, name: str, make: "Callable[[Block], T]") -> T:
        """Return what `make` makes of the block, once; `name` is no column."""
        if (known := self._decoded.get(name)) is None:
            known = self._decoded[name] = make(self)
        result: T = known
        return result

    def entries(self, places: Iterable[int]) -> list[Entry]:
        """Return the events at some places."""
        places = list(places)
        columns: list[Iterable[Any]] = [()] * len(_COLUMNS)
        for name, kind, column in _COLUMNS:
            if kind in ("numbers", "levels"):
                numbers = self.numbers(name)
                columns[column] = [numbers[place] for place in places]
            elif kind == "names":
                texts, codes = self.names(name)
                columns[column] = [texts[codes[place]] for place in places]
            else:
                piece, starts, lengths = self.texts(name)
                parts = [
                    None
                    if lengths[place] < 0
                    else piece[starts[place] : starts[place] + lengths[place]]
                    for place in places
                ]
                columns[column] = (
                    parts
                    if kind == "bytes"
                    else [None if part is None else part.decode() for part in parts]
                )
        return list(zip(*columns, strict=True))

    def rows(self, places: Iterable[int]) -> list[tuple[Any, ...]]:
        """Return the events at some places as rows of `EVENT_COLUMNS`, with names as text."""
        return [
            (sequence, identity, f"={source}", f"={origin}", f"={kind}", *rest, None)
            for sequence, identity, source, origin, kind, *rest in self.entries(places)
        ]


def _little_endian(values: "array[int]") -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _from_little_endian(typecode: str, content: bytes) -> "array[int]":
    values: array[int] = array(typecode)
    values.frombytes(content)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _encode_numbers(values: Sequence[int]) -> bytes:
    try:
        return _little_endian(array("q", map(operator.sub, values, (0, *values))))
    except OverflowError:
        # Differences of 64-bit numbers may need 65 bits; they wrap around, and back again.
        wrapped = (
            (value - before + 2**63) % 2**64 - 2**63
            for before, value in itertools.pairwise((0, *values))
        )
        return _little_endian(array("q", wrapped))


def _encode_levels(values: Sequence[int]) -> bytes:
    return bytes(values)


def _encode_names(values: Sequence[str | None]) -> bytes:
    places = {text: place for place, text in enumerate(dict.fromkeys(values))}
    listed = msgspec.json.encode(list(places))
    codes = array("H", map(places.__getitem__, values))
    return _LENGTH.pack(len(listed)) + listed + _little_endian(codes)


def _encode_texts(values: Sequence[str]) -> bytes:
    joined = "".join(values)
    if joined.isascii():
        return _little_endian(array("i", map(len, values))) + joined.encode()
    return _encode_bytes([value.encode() for value in values])


def _encode_bytes(values: Sequence[bytes | None]) -> bytes:
    lengths = array("i", (-1 if value is None else len(value) for value in values))
    return _little_endian(lengths) + b"".join(value for value in values if value)


_ENCODERS: Final[dict[str, Callable[[Sequence[Any]], bytes]]] = {
    "numbers": _encode_numbers,
    "levels": _encode_levels,
    "names": _encode_names,
    "texts": _encode_texts,
    "bytes": _encode_bytes,
}


def _decode_numbers(content: bytes, events: int) -> list[int]:
    if len(content) == events:
        return list(content)
    values = list(itertools.accumulate(_from_little_endian("q", content)))
    if min(values) >= -(2**63) and max(values) < 2**63:
        return values
    return [(value + 2**63) % 2**64 - 2**63 for value in values]


def _decode_names(content: bytes, events: int) -> tuple[list[str | None], Sequence[int]]:
    (length,) = _LENGTH.unpack_from(content)
    end = _LENGTH.size + length
    texts = msgspec.json.decode(content[_LENGTH.size : end], type=list[str | None])
    return texts, _from_little_endian("H", content[end:])


def _decode_texts(content: bytes, events: int) -> tuple[bytes, list[int], Sequence[int]]:
    lengths = _from_little_endian("i", content[: 4 * events])
    if max(lengths) <= 0:
        return content, [4 * events] * events, lengths
    present = lengths if min(lengths) >= 0 else [max(length, 0) for length in lengths]
    starts = list(itertools.accumulate(present, initial=4 * events))
    return content, starts[:-1], lengths
