"""Charts of e-mails: a valid picture with the line and the threshold in it."""

import math
import struct
import zlib

import pytest

from almenara_notifiers.png_chart import HEIGHT, LINE, PADDING, THRESHOLD, WIDTH, draw_chart

BOTTOM = HEIGHT - 1 - PADDING


def decode(picture: bytes) -> list[bytes]:
    """The rows of pixels of a picture, whose parts are checked."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    parts, place = {}, 8
    while place < len(picture):
        (size,) = struct.unpack_from(">I", picture, place)
        name, body = picture[place + 4 : place + 8], picture[place + 8 : place + 8 + size]
        (crc,) = struct.unpack_from(">I", picture, place + 8 + size)
        assert crc == zlib.crc32(name + body)
        parts[name] = body
        place += 12 + size
    assert list(parts) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBB", parts[b"IHDR"][:10]) == (WIDTH, HEIGHT, 8, 3)
    pixels = zlib.decompress(parts[b"IDAT"])
    assert len(pixels) == (WIDTH + 1) * HEIGHT
    return [pixels[y * (WIDTH + 1) + 1 : (y + 1) * (WIDTH + 1)] for y in range(HEIGHT)]


def test_line_goes_from_the_first_to_the_last_point() -> None:
    rows = decode(draw_chart([(0, 0.0), (10, 10.0)]))
    assert rows[BOTTOM][0] == LINE
    assert rows[PADDING][WIDTH - 1] == LINE
    assert all(any(row[x] == LINE for row in rows) for x in range(WIDTH))


def test_threshold_is_a_dashed_line() -> None:
    rows = decode(draw_chart([(0, 0.0), (10, 0.0)], 100.0))
    assert rows[PADDING].count(THRESHOLD) == WIDTH // 2
    assert rows[BOTTOM].count(LINE) == WIDTH


@pytest.mark.parametrize("values", [(0.0, 0.0), (-5.0, -1.0), (1e300, -1e300), (3.0, 3.0, 1e-9)])
def test_any_numbers_are_drawn(values: tuple[float, ...]) -> None:
    assert decode(draw_chart([(number, value) for number, value in enumerate(values)], 1.0))
    assert decode(draw_chart([(5, value) for value in values]))


def test_infinite_numbers_are_left_out() -> None:
    points = [(0, 1.0), (1, math.inf), (2, math.nan), (3, 2.0)]
    assert decode(draw_chart(points, math.inf)) == decode(draw_chart([(0, 1.0), (3, 2.0)]))


def test_chart_needs_two_points() -> None:
    with pytest.raises(ValueError, match="two points"):
        draw_chart([(0, 1.0)])
