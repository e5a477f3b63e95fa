"""The last samples of many series, read at once: as of a moment, and at a start.

A series has a piece in each flush of a window that is not sealed, and pages need few samples of
many series. So one query reads the pieces of all series in a flush, from the newest flush on, until
each series has as many samples as it needs.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Final

from almenara.bus.readers import check_deadline
from almenara.state.sample_chunks import Chunks, merge_points, read_rollups
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import MINUTE_WIDTH, SLOT, WINDOW
from almenara.state.samples import SAMPLES_PER_SERIES

WINDOWS: Final = 2
"""Windows of which the newest samples are read."""


class LastPoints:
    """The last samples of a series up to a moment, of pieces of which the newest comes first."""

    def __init__(self, moment: int, limit: int) -> None:
        self._moment, self._limit = moment, limit
        self.pieces: list[Points] = []
        self._count = 0
        self.is_complete = False

    def add(self, piece: Points) -> None:
        """Add what is needed of a piece, if anything is."""
        if self.is_complete or not (piece := _cut_at(piece, self._moment, self._limit)).times:
            return
        self.pieces.append(piece)
        self._count += len(piece.times)
        if self._count >= self._limit:
            merged = _merge(self.pieces)
            # Some may be of one slot, so that there are fewer of them.
            self.is_complete = len(merged.times) >= self._limit

    def add_means(self, chunks: Chunks, number: int) -> None:
        """Add the means of minutes of a series, of which single samples are no longer stored."""
        since = self._moment - SAMPLES_PER_SERIES * MINUTE_WIDTH
        rollups = read_rollups(chunks, number, since, self._moment, MINUTE_WIDTH, {})
        means = [total / count for total, count in zip(rollups.totals, rollups.counts, strict=True)]
        if means:
            self.pieces.append(Points(rollups.times, means))

    def points(self) -> Points:
        """Return the samples, by time."""
        if not self.pieces:
            return Points([], [])
        merged = _merge(self.pieces)
        return Points(merged.times[-self._limit :], merged.values[-self._limit :])


def read_last(chunks: Chunks, series: Mapping[int, LastPoints], moment: int) -> None:
    """Add what is stored of series, by number, up to a moment in milliseconds."""
    incomplete = {number: last for number, last in series.items() if not last.is_complete}
    for pieces in _newest_pieces(chunks, moment, incomplete):
        for number, piece in pieces.items():
            incomplete[number].add(piece)
            if incomplete[number].is_complete:
                del incomplete[number]


def _newest_pieces(
    chunks: Chunks, moment: int, incomplete: Mapping[int, object]
) -> Iterator[dict[int, Points]]:
    """Yield the samples of series in the window of a moment and in those before it, the newest
    pieces first, for as long as series are incomplete."""
    newest = moment // WINDOW
    for window in range(newest, newest - WINDOWS, -1):
        for flush in chunks.flushed_before(window, moment):
            if not incomplete:
                return
            check_deadline()
            yield chunks.of_many("fresh", flush, incomplete)
        if incomplete:
            yield chunks.of_many("raw", window, incomplete)


def _cut_at(points: Points, moment: int, limit: int) -> Points:
    """Return the last samples up to a moment, by time, as many as are needed."""
    times, values = points.times, points.values
    if times != sorted(times):
        ordered = sorted(zip(times, values, strict=True), key=itemgetter(0))
        times, values = [time for time, _ in ordered], [value for _, value in ordered]
    earliest = (moment // WINDOW - WINDOWS + 1) * WINDOW
    end, first = bisect_right(times, moment), bisect_left(times, earliest)
    recent = max(end - limit, first)
    cut = Points(times[recent:end], values[recent:end])
    if recent == first or _has_slots_of_its_own(cut):
        return cut
    # Some are of one slot, so that there are fewer of them.
    return Points(times[first:end], values[first:end])


def _has_slots_of_its_own(points: Points) -> bool:
    return len({time // SLOT for time in points.times}) == len(points.times)


def _merge(newest: Sequence[Points]) -> Points:
    """Return pieces, of which the newest comes first, as one."""
    if len(newest) == 1 and _has_slots_of_its_own(newest[0]):
        return newest[0]
    return merge_points(reversed(newest))
