"""The lines of logs, whatever bytes a container writes."""

import msgspec
from hypothesis import example, given, settings, strategies as st

from almenara_kubernetes.log_lines import LONGEST_LINE, LineSplitter, LineTracker

STAMP = st.builds(
    lambda seconds, nanos: f"2026-01-01T00:00:{seconds:02}.{nanos:09}".rstrip("0").encode() + b"Z",
    st.integers(0, 59), st.integers(1, 999_999_999),
)  # fmt: skip
LINE = st.binary(max_size=80) | st.builds(
    lambda *each: b" ".join(each), STAMP, st.binary(max_size=40)
)


@given(lines=st.lists(LINE, max_size=12))
@example(lines=[b"", b" ", b"\xff\xfe", b"9999-99-99T00:00:00Z x", b"0001-01-01T00:00:00-23:59 x"])
@example(lines=["2026-01-01T00:00:00.5Z \u00fcber".encode()[:-4]])
@settings(max_examples=300, deadline=None)
def test_tracker_accepts_each_line_once_whatever_its_bytes(
    lines: list[bytes],
) -> None:
    seen = LineTracker()
    shown = [each for raw in lines if (each := seen.accept(raw, "main")) is not None]

    msgspec.json.encode(shown)
    assert len(shown) == len(lines)
    assert all(len(each.text) <= LONGEST_LINE for each in shown)
    # Gone on with from the second of the newest: what of it was shown is not shown again, what is
    # new is. What has no time may be new, and is shown.
    for _ in range(2):
        seen.resume()
        newest = seen.time // 1_000_000
        for raw, before in zip(lines, shown, strict=True):
            if before.time is not None and before.time // 1_000_000 >= newest:
                assert seen.accept(raw, "main") is None
    new = b"2026-01-01T00:00:59.5Z one that comes later"
    assert seen.accept(new, "main") is not None
    assert seen.accept(new, "main") is not None


def test_tracker_cuts_a_huge_line() -> None:
    line = LineTracker().accept(b"2026-01-01T00:00:00Z " + b"\xc3\xbc" * 10**6, "")

    assert line is not None
    assert len(line.text) <= LONGEST_LINE


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=6),
    long=st.integers(0, 3 * LONGEST_LINE),
    step=st.integers(1, 2 * LONGEST_LINE),
)
@example(lines=[b"a", b"b"], long=100_000, step=4_096)
def test_splitter_makes_one_row_of_a_long_line_whatever_the_chunks(
    lines: list[bytes], long: int, step: int
) -> None:
    expected = [*lines, b"x" * long, b"after"]
    whole = b"".join(line + b"\n" for line in expected)
    splitter = LineSplitter()

    rows = [
        row
        for start in range(0, len(whole), step)
        for row in splitter.split(whole[start : start + step])
    ]

    assert rows == [line[:LONGEST_LINE] for line in expected]
    assert splitter.last() == b""
