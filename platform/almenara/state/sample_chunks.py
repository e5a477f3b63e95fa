"""Chunks in the database: pieces that were flushed, sealed windows, and what is read of both.

A window is sealed once it is over: its pieces become one chunk of samples with their rollups, in
one transaction, so that every sample is in exactly one place at any moment. A piece that comes late
is sealed into the chunk that is there, and the window after it is rolled up again: its first sample
rises from the last one of the window before. Where the samples of a window were removed, those that
come late are left out, because its rollups can't be made again.
"""

import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from almenara.state.rollups import join, roll_up
from almenara.state.sample_codec import (
    DamagedChunkError,
    Points,
    Rollups,
    decode_points,
    decode_rollups,
    encode_points,
    encode_rollups,
)
from almenara.state.sample_schema import (
    DAY_WINDOW,
    HOUR_WIDTH,
    MINUTE_WIDTH,
    SHIFT,
    SLOT,
    WINDOW,
    chunk_key,
)

Table = Literal["fresh", "raw", "minutes", "hours"]
SELECT: Final[Mapping[str, str]] = {
    table: f"SELECT body FROM {table} WHERE key = ?"  # nosec B608 # the tables of this module
    for table in ("fresh", "raw", "minutes", "hours")
}
SELECT_MANY: Final[Mapping[str, str]] = {
    table: "SELECT group_concat(key || ' ' || hex(body))"  # nosec B608 # the tables of this module
    f" FROM {table} WHERE key IN (SELECT value FROM json_each(?))"
    for table in ("fresh", "raw")
}
"""Of many rows as one: for each row, a thread gives up the interpreter and has to wait for it."""
STORE: Final[Mapping[str, str]] = {
    table: f"INSERT OR REPLACE INTO {table} VALUES (?, ?)"  # nosec B608 # the tables of this module
    for table in ("fresh", "raw", "minutes", "hours")
}


def merge_points(parts: Iterable[Points]) -> Points:
    """Return samples as one, by time; of each slot the last, and of several parts the later."""
    slots: dict[int, tuple[int, float]] = {}
    for part in parts:
        for time, value in zip(part.times, part.values, strict=True):
            slots[time // SLOT] = (time, value)
    ordered = [slots[slot] for slot in sorted(slots)]
    return Points([time for time, _ in ordered], [value for _, value in ordered])


def last_point(points: Points) -> tuple[int, float] | None:
    """Return the last of some samples."""
    return (points.times[-1], points.values[-1]) if points.times else None


def split_windows(points: Points) -> dict[int, Points]:
    """Return samples, which need not be in order, by the number of their window."""
    windows: dict[int, Points] = {}
    for time, value in zip(points.times, points.values, strict=True):
        window = windows.get(time // WINDOW)
        if window is None:
            window = windows[time // WINDOW] = Points([], [])
        window.times.append(time)
        window.values.append(value)
    return {number: merge_points((window,)) for number, window in windows.items()}


class WindowPieces:
    """What a flush stores in a window."""

    def __init__(self) -> None:
        self.first: int | None = None
        """The time of its first sample, in milliseconds."""
        self.rows: list[tuple[int, bytes]] = []
        """Series and chunk."""

    def add(self, number: int, points: Points) -> None:
        """Add samples of a series, by time."""
        first = points.times[0]
        self.first = first if self.first is None else min(first, self.first)
        self.rows.append((number, encode_points(points)))


def store_pieces(
    connection: sqlite3.Connection, pieces: Mapping[int, WindowPieces], flush: int
) -> int:
    """Store what was flushed, by window. Returns the number of the last flush."""
    for window, of_window in sorted(pieces.items()):
        flush += 1
        connection.execute(
            "INSERT INTO flushes VALUES (?, ?, ?)", (flush, window, of_window.first or 0)
        )
        connection.executemany(
            STORE["fresh"], [(chunk_key(flush, number), body) for number, body in of_window.rows]
        )
    return flush


class Chunks:
    """The chunks that a connection sees, and how many of them are damaged.

    Reading takes one transaction of the caller: sealing moves samples between the tables.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.damaged = 0
        self.flushes: dict[int, list[int]] = defaultdict(list)
        """The flushes of each window that is not sealed."""
        for number, window in connection.execute("SELECT number, window FROM flushes"):
            self.flushes[window].append(number)
        (self._oldest,) = connection.execute("SELECT min(key) FROM raw").fetchone()

    def points(self, number: int, window: int, pieces: Iterable[Points] = ()) -> Points:
        """Return the samples of a series in a window; `pieces` are further ones."""
        key = chunk_key(window, number)
        raw = self._points("raw", key)
        fresh = [*self.pieces(number, window), *pieces]
        if raw is None and fresh and self._was_removed(key):
            return Points([], [])
        return merge_points(filter(None, (raw, *fresh)))

    def _was_removed(self, key: int) -> bool:
        """Whether a window had samples that retention removed, the oldest first."""
        return (self._oldest is None or key < self._oldest) and (
            self._body("minutes", key) is not None
        )

    def sealed_points(self, number: int, window: int) -> Points | None:
        """Return the samples of a series in a sealed window; None where there are none."""
        return self._points("raw", chunk_key(window, number))

    def pieces(self, number: int, window: int) -> list[Points]:
        """Return what was flushed of a series in a window and is not sealed."""
        keys = (chunk_key(flush, number) for flush in self.flushes.get(window, ()))
        return [piece for key in keys if (piece := self._points("fresh", key)) is not None]

    def flushed_before(self, window: int, moment: int) -> list[int]:
        """Return the flushes of a window that have samples up to a moment in milliseconds, or may
        have some, the last first."""
        return [
            flush
            for (flush,) in self._connection.execute(
                "SELECT number FROM flushes WHERE window = ? AND first <= ? ORDER BY number DESC",
                (window, moment),
            )
        ]

    def of_many(
        self, table: Literal["raw", "fresh"], upper: int, numbers: Iterable[int]
    ) -> dict[int, Points]:
        """Return the samples of many series in a window or flush, in one query."""
        keys = msgspec.json.encode([chunk_key(upper, number) for number in numbers]).decode()
        (rows,) = self._connection.execute(SELECT_MANY[table], (keys,)).fetchone()
        points: dict[int, Points] = {}
        for row in rows.split(",") if rows else ():
            key, _, body = row.partition(" ")
            if (piece := self._decode(bytes.fromhex(body))) is not None:
                points[int(key) & (1 << SHIFT) - 1] = piece
        return points

    def sealed(self, table: Literal["minutes", "hours"], upper: int, number: int) -> Rollups | None:
        """Return the rollups in a chunk; None where there are none, or they are damaged."""
        body = self._body(table, chunk_key(upper, number))
        if body is None:
            return None
        try:
            return decode_rollups(body)
        except (DamagedChunkError, IndexError, ValueError):
            self.damaged += 1
            return None

    def _points(self, table: Literal["raw", "fresh"], key: int) -> Points | None:
        body = self._body(table, key)
        return None if body is None else self._decode(body)

    def _decode(self, body: bytes) -> Points | None:
        try:
            return decode_points(body)
        except (DamagedChunkError, IndexError, ValueError):
            self.damaged += 1
            return None

    def _body(self, table: Table, key: int) -> bytes | None:
        row = self._connection.execute(SELECT[table], (key,)).fetchone()
        return None if row is None else row[0]


def read_points(
    chunks: Chunks, number: int | None, since: int, until: int, pieces: Mapping[int, Points]
) -> tuple[Points, tuple[int, float] | None]:
    """Return the samples of a series in `[since, until)` and the last one before them, if near.

    Times are in milliseconds. `pieces` are the samples in memory, by window; a series without a
    number has no others.
    """
    parts = [
        _window_points(chunks, number, window, pieces)
        for window in range(since // WINDOW, (until - 1) // WINDOW + 1)
    ]
    points = Points(
        [time for part in parts for time in part.times],
        [value for part in parts for value in part.values],
    )
    first, end = bisect_left(points.times, since), bisect_left(points.times, until)
    before = last_point(Points(points.times[:first], points.values[:first]))
    if before is None:
        before = last_point(_window_points(chunks, number, since // WINDOW - 1, pieces))
    return Points(points.times[first:end], points.values[first:end]), before


def read_rollups(
    chunks: Chunks,
    number: int | None,
    since: int,
    until: int,
    width: int,
    pieces: Mapping[int, Points],
) -> Rollups:
    """Return the rollups of a series in buckets of a minute or an hour that start in
    `[since, until)`; `pieces` as above."""
    windows = range(since // WINDOW, (until - 1) // WINDOW + 1)
    parts: list[Rollups] = []
    if number is not None:
        table: Literal["minutes", "hours"] = "minutes" if width == MINUTE_WIDTH else "hours"
        span = WINDOW if width == MINUTE_WIDTH else DAY_WINDOW
        uppers = range(since // span, (until - 1) // span + 1)
        sealed = (chunks.sealed(table, upper, number) for upper in uppers)
        parts += [rollups for rollups in sealed if rollups is not None]
    changed = _changed_windows(chunks, number, pieces, windows)
    for window in sorted(changed | {window + 1 for window in changed}):
        if window not in windows:
            continue
        before = last_point(_window_points(chunks, number, window - 1, pieces))
        if window not in changed and before is None:
            continue
        points = _window_points(chunks, number, window, pieces)
        if points.values:
            parts.append(roll_up(points, width, before))
    rollups = join(parts)
    first = since // width * width
    return cut_rollups(rollups, first, until)


def _changed_windows(
    chunks: Chunks, number: int | None, pieces: Mapping[int, Points], windows: range
) -> set[int]:
    """Return which windows of a series, and of the one before them, have samples that are not
    sealed.

    The rollups of a window that follows one of them are stale, though it is sealed: its first
    sample rises from the last one before it.
    """
    near = range(windows.start - 1, windows.stop)
    changed = {window for window in pieces if window in near}
    if number is not None:
        flushed = (window for window in chunks.flushes if window in near)
        changed |= {window for window in flushed if chunks.pieces(number, window)}
    return changed


def _window_points(
    chunks: Chunks, number: int | None, window: int, pieces: Mapping[int, Points]
) -> Points:
    in_memory = [pieces[window]] if window in pieces else []
    if number is None:
        return merge_points(in_memory)
    return chunks.points(number, window, in_memory)


def cut_rollups(rollups: Rollups, since: int, until: int) -> Rollups:
    """Return the rollups of the buckets that start in `[since, until)`."""
    times = rollups.times
    if not times or (times[0] >= since and times[-1] < until):
        return rollups
    first, end = bisect_left(times, since), bisect_left(times, until)
    return Rollups(
        times[first:end], rollups.lows[first:end], rollups.highs[first:end],
        rollups.totals[first:end], rollups.counts[first:end],
        None if rollups.increases is None else rollups.increases[first:end],
        None if rollups.spans is None else rollups.spans[first:end],
    )  # fmt: skip


def find_pieces(connection: sqlite3.Connection, window: int, limit: int) -> list[int]:
    """Return up to `limit` series that have pieces in a window, of its first flush that has any.

    A flush without pieces is removed.
    """
    for (flush,) in connection.execute(
        "SELECT number FROM flushes WHERE window = ? ORDER BY number", (window,)
    ).fetchall():
        numbers = [
            key & (1 << SHIFT) - 1
            for (key,) in connection.execute(
                "SELECT key FROM fresh WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
                (chunk_key(flush, 0), chunk_key(flush + 1, 0), limit),
            )
        ]
        if numbers:
            return numbers
        connection.execute("DELETE FROM flushes WHERE number = ?", (flush,))
    return []


def seal(connection: sqlite3.Connection, chunks: Chunks, window: int, number: int) -> None:
    """Make one chunk of the pieces of a series in a window, with its rollups; in the caller's
    transaction.

    The window after it is rolled up again where it is sealed and what it rises from has changed.
    """
    sealed = chunks.sealed_points(number, window)
    points = chunks.points(number, window)
    connection.executemany(
        "DELETE FROM fresh WHERE key = ?",
        [(chunk_key(flush, number),) for flush in chunks.flushes.get(window, ())],
    )
    if not points.values:
        return
    _store_rollups(connection, chunks, window, number, points)
    connection.execute(STORE["raw"], (chunk_key(window, number), encode_points(points)))
    if sealed is not None and last_point(points) == last_point(sealed):
        return
    following = chunks.sealed_points(number, window + 1)
    if following is not None:
        _store_rollups(connection, chunks, window + 1, number, following)


def _store_rollups(
    connection: sqlite3.Connection, chunks: Chunks, window: int, number: int, points: Points
) -> None:
    """Store the rollups of the samples of a series in a window, in place of those there are."""
    before = last_point(chunks.points(number, window - 1))
    minutes = roll_up(points, MINUTE_WIDTH, before)
    hours = roll_up(points, HOUR_WIDTH, before)
    # A window is within one day: a day has twelve.
    day = points.times[0] // DAY_WINDOW
    if (sealed := chunks.sealed("hours", day, number)) is not None:
        hours = join((sealed, hours))
    connection.execute(STORE["hours"], (chunk_key(day, number), encode_rollups(hours)))
    connection.execute(STORE["minutes"], (chunk_key(window, number), encode_rollups(minutes)))
