"""Samples and rollups as bytes: chunks of columns, each column without loss.

A chunk is a CRC-32 of the rest (4 bytes, little-endian), one byte with the version in its upper and
the scale in its lower half, the number of rows as a varint, and the columns. Scale 0 to 14 means
that every value is an integer divided by that power of ten; 15 that values are 64-bit floats.

Most measurements are decimal numbers: nanocores, bytes, milliseconds. As integers their differences
are short, while the bits of 0.013472 and 0.013473 as floats have nothing in common. That is why
values are scaled first and XOR is only for what has no short decimal form.

- A column of integers stores the values, their differences or the differences of those, whichever
  is shortest, without a common divisor, as planes of bytes. A plane is compressed with Deflate
  where that makes it shorter: chunks are so short that the frame of a newer method costs more than
  it gains.
- A column of floats stores each value XOR the one before, in eight planes.

Times are in milliseconds since the epoch.
"""

import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import gcd
from operator import xor
from typing import Final

import msgspec

VERSION: Final = 1
FLOATS: Final = 15
"""The scale of chunks whose values are floats."""
LARGEST_SCALE: Final = 14
LARGEST_INTEGER: Final = 2**53
"""Integers up to it are exact as floats."""
DECIDING: Final = 8
"""Values that are tried before all are scaled."""
PLANES: Final = 8
DEFLATE: Final = -15
"""Deflate without a header."""
SHORTEST_DEFLATED: Final = 24
"""Bytes of a plane below which Deflate never makes it shorter."""


class DamagedChunkError(ValueError):
    """The bytes are not what was written."""


class Points(msgspec.Struct):
    """Samples of one series, by time; each time is there once."""

    times: list[int]
    values: list[float]


class Rollups(msgspec.Struct):
    """What is known of the samples in each of several buckets of time, by time."""

    times: list[int]
    """The start of each bucket."""
    lows: list[float]
    highs: list[float]
    totals: list[float]
    counts: list[int]
    increases: list[float] | None = None
    """By how much a counter rose since the sample before, resets included; None for a gauge."""
    spans: list[int] | None = None
    """Milliseconds that each increase covers, from the sample before the bucket to its last one; 0
    where that is not known. Not stored."""
    is_first_known: bool = False
    """Whether the first of them counts from a sample before; of stored ones it is not known."""


def encode_points(points: Points) -> bytes:
    """Return samples as a chunk."""
    scaled = scale_values(points.values)
    out = bytearray((VERSION << 4 | (FLOATS if scaled is None else scaled[0]),))
    _put_varint(out, len(points.times))
    _put_integers(out, points.times)
    if scaled is None:
        _put_floats(out, points.values)
    else:
        _put_integers(out, scaled[1])
    return _with_checksum(out)


def decode_points(body: bytes) -> Points:
    """Return the samples in a chunk. Raises `DamagedChunkError`."""
    scale, count, place = _read_head(body)
    times, place = _read_integers(body, place, count)
    if scale == FLOATS:
        values, _ = _read_floats(body, place, count)
    else:
        numbers, _ = _read_integers(body, place, count)
        values = _divide(numbers, scale)
    return Points(times, values)


def encode_rollups(rollups: Rollups) -> bytes:
    """Return rollups as a chunk."""
    increases = rollups.increases or []
    scaled = scale_values([*rollups.lows, *rollups.highs, *rollups.totals, *increases])
    if scaled is not None:
        try:
            return _encode_scaled_rollups(rollups, *scaled)
        except OverflowError:
            pass  # The sum of the smallest value is beyond 64 bits.
    out = bytearray((VERSION << 4 | FLOATS,))
    _put_rollup_head(out, rollups)
    for column in (rollups.lows, rollups.highs, rollups.totals, increases):
        if column:
            _put_floats(out, column)
    return _with_checksum(out)


def decode_rollups(body: bytes) -> Rollups:
    """Return the rollups in a chunk. Raises `DamagedChunkError`."""
    scale, count, place = _read_head(body)
    try:
        has_increases = body[place] == 1
    except IndexError:
        raise DamagedChunkError("a chunk ends early") from None
    times, place = _read_integers(body, place + 1, count)
    counts, place = _read_integers(body, place, count)
    if scale == FLOATS:
        columns = []
        for _ in range(3 + has_increases):
            column, place = _read_floats(body, place, count)
            columns.append(column)
        lows, highs, totals = columns[:3]
        return Rollups(times, lows, highs, totals, counts, columns[3] if has_increases else None)
    numbers = []
    for _ in range(3 + has_increases):
        integers, place = _read_integers(body, place, count)
        numbers.append(integers)
    low, spread, excess = numbers[:3]
    high = [a + b for a, b in zip(low, spread, strict=True)]
    total = [a + b * n for a, b, n in zip(excess, low, counts, strict=True)]
    increases = None
    if has_increases:
        expected = _expected_increases(low, high)
        increases = _divide([a + b for a, b in zip(numbers[3], expected, strict=True)], scale)
    return Rollups(
        times, _divide(low, scale), _divide(high, scale), _divide(total, scale), counts, increases
    )


def scale_values(values: Sequence[float]) -> tuple[int, list[int]] | None:
    """Return the least power of ten that makes every value an integer, and those integers.

    None where no scale up to `LARGEST_SCALE` is exact, or an integer would not be exact.
    """
    known = list(values)
    if known and not -LARGEST_INTEGER < min(known) <= max(known) < LARGEST_INTEGER:
        return None
    # What is exact with one scale is exact with every larger one, so few values decide for most.
    deciding = known[:DECIDING]
    for scale in range(LARGEST_SCALE + 1):
        factor = 10.0**scale
        if any(round(value * factor) / factor != value for value in deciding):
            continue
        numbers = [*map(round, [value * factor for value in known])]
        exact = [number / factor for number in numbers]
        if exact == known:
            is_exact = not numbers or max(max(numbers), -min(numbers)) < LARGEST_INTEGER
            return (scale, numbers) if is_exact else None
        deciding = [value for value, other in zip(known, exact, strict=True) if value != other]
        del deciding[DECIDING:]
    return None


def _encode_scaled_rollups(rollups: Rollups, scale: int, numbers: list[int]) -> bytes:
    count = len(rollups.times)
    low, high, total = (numbers[place : place + count] for place in (0, count, 2 * count))
    out = bytearray((VERSION << 4 | scale,))
    _put_rollup_head(out, rollups)
    _put_integers(out, low)
    _put_integers(out, [b - a for a, b in zip(low, high, strict=True)])
    _put_integers(out, [t - n * a for t, n, a in zip(total, rollups.counts, low, strict=True)])
    if rollups.increases is not None:
        # Of a counter that is never reset, only zeros remain.
        expected = _expected_increases(low, high)
        _put_integers(out, [a - b for a, b in zip(numbers[3 * count :], expected, strict=True)])
    return _with_checksum(out)


def _expected_increases(low: list[int], high: list[int]) -> list[int]:
    return [high[0] - low[0], *(after - before for before, after in pairwise(high))] if low else []


def _put_rollup_head(out: bytearray, rollups: Rollups) -> None:
    _put_varint(out, len(rollups.times))
    out.append(rollups.increases is not None)
    _put_integers(out, rollups.times)
    _put_integers(out, rollups.counts)


def _divide(numbers: list[int], scale: int) -> list[float]:
    if scale == 0:
        return [*map(float, numbers)]
    factor = 10.0**scale
    return [number / factor for number in numbers]


def _with_checksum(out: bytearray) -> bytes:
    return zlib.crc32(out).to_bytes(4, "little") + out


def _read_head(body: bytes) -> tuple[int, int, int]:
    """Return scale, number of rows and the place of what follows."""
    if len(body) < 6 or zlib.crc32(memoryview(body)[4:]) != int.from_bytes(body[:4], "little"):
        raise DamagedChunkError("the checksum of a chunk is wrong")
    if body[4] >> 4 != VERSION:
        raise DamagedChunkError(f"a chunk has the unknown version {body[4] >> 4}")
    count, place = _read_varint(body, 5)
    return body[4] & 15, count, place


def _put_integers(out: bytearray, values: Sequence[int]) -> None:
    """Append a column. Raises `OverflowError` for differences of more than 64 bits."""
    if not values:
        return
    least = min(values)
    residuals, order = [value - least for value in values], 0
    differences: list[int] = []
    first_difference = 0
    if len(values) > 1:
        differences = [after - before for before, after in pairwise(values)]
        size = sum(map(int.bit_length, residuals))
        if (of_differences := sum(map(int.bit_length, differences)) + len(differences)) < size:
            residuals, order, size = differences, 1, of_differences
        if len(values) > 2:
            first_difference = differences[0]
            seconds = [after - before for before, after in pairwise(differences)]
            if sum(map(int.bit_length, seconds)) + len(seconds) < size:
                residuals, order = seconds, 2
    divisor = gcd(*residuals)
    if divisor > 1:
        residuals = [residual // divisor for residual in residuals]
    if order:
        residuals = [2 * number if number >= 0 else -2 * number - 1 for number in residuals]
    planes = (max(residuals).bit_length() + 7) // 8
    out.append(order | (divisor > 1) << 2 | min(planes, 15) << 3)
    _put_signed(out, values[0] if order else least)
    if order == 2:
        _put_signed(out, first_difference)
    if divisor > 1:
        _put_varint(out, divisor)
    _put_planes(out, residuals, planes)


def _read_integers(body: bytes, place: int, count: int) -> tuple[list[int], int]:
    if not count:
        return [], place
    flags = body[place]
    order, planes = flags & 3, flags >> 3
    base, place = _read_signed(body, place + 1)
    first_difference, divisor = 0, 1
    if order == 2:
        first_difference, place = _read_signed(body, place)
    if flags & 4:
        divisor, place = _read_varint(body, place)
    residuals, place = _read_planes(body, place, count - order, planes)
    if order:
        residuals = [number >> 1 if not number & 1 else ~(number >> 1) for number in residuals]
    if divisor > 1:
        residuals = [residual * divisor for residual in residuals]
    if not order:
        return [base + residual for residual in residuals], place
    if order == 2:
        residuals = list(accumulate(residuals, initial=first_difference))
    return list(accumulate(residuals, initial=base)), place


def _put_floats(out: bytearray, values: Sequence[float]) -> None:
    bits = array("Q", array("d", values).tobytes())
    _put_planes(out, [bits[0], *(before ^ after for before, after in pairwise(bits))], PLANES)


def _read_floats(body: bytes, place: int, count: int) -> tuple[list[float], int]:
    if not count:
        return [], place
    bits, place = _read_planes(body, place, count, PLANES)
    return array("d", array("Q", accumulate(bits, xor)).tobytes()).tolist(), place


def _put_planes(out: bytearray, numbers: list[int], planes: int) -> None:
    """Append the bytes of numbers, the lowest byte of all first."""
    if not planes:
        return
    data = array("Q", numbers).tobytes()
    for place in range(planes):
        plane = data[place::PLANES]
        if len(plane) >= SHORTEST_DEFLATED:
            deflated = zlib.compress(plane, 6, DEFLATE)
            if len(deflated) < len(plane):
                _put_varint(out, len(deflated))
                out += deflated
                continue
        out.append(0)
        out += plane


def _read_planes(body: bytes, place: int, count: int, planes: int) -> tuple[list[int], int]:
    if not planes:
        return [0] * count, place
    data = bytearray(PLANES * count)
    for number in range(planes):
        length, place = _read_varint(body, place)
        end = place + (length or count)
        plane = body[place:end]
        data[number::PLANES] = zlib.decompress(plane, DEFLATE, count) if length else plane
        place = end
    return array("Q", bytes(data)).tolist(), place


def _put_varint(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _read_varint(body: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = body[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7


def _put_signed(out: bytearray, number: int) -> None:
    _put_varint(out, 2 * number if number >= 0 else -2 * number - 1)


def _read_signed(body: bytes, place: int) -> tuple[int, int]:
    number, place = _read_varint(body, place)
    return number >> 1 if not number & 1 else ~(number >> 1), place
