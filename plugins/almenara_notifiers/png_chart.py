"""A line chart as a PNG picture: e-mail clients show neither SVG nor scripts."""

import math
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

WIDTH: Final = 600
HEIGHT: Final = 160
PADDING: Final = 8
BACKGROUND, LINE, THRESHOLD, GRID = 0, 1, 2, 3
"""Places of the colors in the palette."""
PALETTE: Final = bytes.fromhex("ffffff2a6fdbd43d3de4e4e0")
DASH: Final = 6
LINES: Final = 3


def draw_chart(points: Sequence[tuple[int, float]], threshold: float | None = None) -> bytes:
    """Return a picture of points, the oldest first, with a dashed line at a threshold.

    Times are any numbers, evenly scaled. Raises `ValueError` for fewer than two points.
    """
    points = [(moment, value) for moment, value in points if math.isfinite(value)]
    if len(points) < 2:
        raise ValueError("a chart needs two points")
    if threshold is not None and not math.isfinite(threshold):
        threshold = None
    rows = [bytearray(WIDTH) for _ in range(HEIGHT)]
    values = [value for _, value in points] + ([] if threshold is None else [threshold])
    low, high = min(0.0, *values), max(values)
    # Halved, so that the largest numbers do not overflow.
    span = high / 2 - low / 2 or 1.0
    first, duration = points[0][0], max(points[-1][0] - points[0][0], 1)

    def row_of(value: float) -> int:
        return (
            HEIGHT - 1 - PADDING - round((value / 2 - low / 2) / span * (HEIGHT - 1 - 2 * PADDING))
        )

    for number in range(LINES):
        y = PADDING + number * (HEIGHT - 1 - 2 * PADDING) // (LINES - 1)
        rows[y][:] = bytes([GRID]) * WIDTH
    if threshold is not None:
        y = row_of(threshold)
        for x in range(WIDTH):
            if x // DASH % 2 == 0:
                rows[y][x] = THRESHOLD
    places = [
        (round((moment - first) / duration * (WIDTH - 1)), row_of(value))
        for moment, value in points
    ]
    for (x0, y0), (x1, y1) in pairwise(places):
        _draw_line(rows, x0, y0, x1, y1)
    return _encode(rows)


def _draw_line(rows: list[bytearray], x0: int, y0: int, x1: int, y1: int) -> None:
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    for step in range(steps + 1):
        x, y = x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)
        rows[y][x] = rows[min(y + 1, HEIGHT - 1)][x] = LINE


def _encode(rows: Sequence[bytearray]) -> bytes:
    """Return a PNG of 8 bits a pixel with a palette: https://www.w3.org/TR/png-3/."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    parts = ((b"IHDR", header), (b"PLTE", PALETTE), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
