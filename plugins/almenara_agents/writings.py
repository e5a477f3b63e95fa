"""Texts that language models write, token by token, as far as they were received."""

import bisect
from collections import deque
from typing import Any, Final

import msgspec

from almenara.signals import Event
from almenara.units import SECOND

MAX_TEXT: Final = 12_000
"""Characters of a text in memory; of a longer one, the beginning is left out."""
CUT: Final = 4_000
"""Characters that are left out at once, so that a text changes at its end most of the time."""
RECENT: Final = 64
"""Last tokens that can still be put in order, and ids by which repeated ones are recognized."""
UNKNOWN: Final = -1


class Writing:
    """The text that an agent writes, or wrote last."""

    def __init__(self, agent: str, event: Event) -> None:
        self.agent = agent
        self.cause = msgspec.structs.replace(event, data=None, raw=None)
        """The first event about it, without its data: who may see that may see the text."""
        self.role = self.story = self.model = self.finish_reason = self.trace = ""
        self.start_id = self.end_id = ""
        self.started = self.first = self.last = self.ended = 0
        self.tokens = 0
        self.reported = 0
        """When a sign of life was stored."""
        self.has_gap = False
        self._head = ""
        self._is_cut = False
        self._positions: list[int] = []
        self._pieces: list[str] = []
        self._ids: deque[str] = deque(maxlen=RECENT)

    def add(self, event: Event, piece: str, position: int) -> bool:
        """Add a token; whether it was new. A position of `UNKNOWN` is that of the end."""
        if event.id in self._ids:
            return False
        self._ids.append(event.id)
        end = self._positions[-1] if self._positions else UNKNOWN
        place = end + 1 if position == UNKNOWN else position
        at = bisect.bisect_left(self._positions, place)
        if at < len(self._positions) and self._positions[at] == place:
            return False
        if at == 0 and self._head:
            # Too late: what follows it is not separate any more.
            self.has_gap = True
            return False
        self._positions.insert(at, place)
        self._pieces.insert(at, piece)
        self.tokens += 1
        self.first = min(self.first or event.time, event.time)
        self.last = max(self.last, event.time)
        while len(self._pieces) > RECENT:
            self._head += self._pieces.pop(0)
            self.has_gap |= self._positions[1] != self._positions.pop(0) + 1
        if len(self._head) > MAX_TEXT:
            self._head, self._is_cut = self._head[-(MAX_TEXT - CUT) :], True
        return True

    @property
    def is_complete(self) -> bool:
        """Whether the start and every token was received."""
        first = self._positions[0] if self._positions else 0
        is_dense = not self._positions or self._positions[-1] - first + 1 == len(self._positions)
        return bool(self.start_id) and is_dense and not self.has_gap

    @property
    def text(self) -> str:
        """The text so far."""
        text = self._head + "".join(self._pieces)
        return f"\N{HORIZONTAL ELLIPSIS} {text}" if self._is_cut or not self.start_id else text

    @property
    def rate(self) -> float | None:
        """Tokens per second, between the first and the last one."""
        seconds = (self.last - self.first) / SECOND
        return round((self.tokens - 1) / seconds, 1) if self.tokens > 1 and seconds > 0 else None

    def summarize(self, reported: int) -> dict[str, Any]:
        """What remains of a text that has ended, with the number of tokens as reported."""
        wait = (self.first - self.started) / SECOND if self.first and self.started else None
        summary = {
            "tokens": reported or self.tokens,
            "time_to_first_token": None if wait is None else round(max(wait, 0.0), 3),
            "tokens_per_second": self.rate,
            "finish_reason": self.finish_reason,
            "duration": round((self.ended - self.started) / SECOND, 3) if self.started else None,
            "complete": self.is_complete,
        }
        return {name: value for name, value in summary.items() if value not in (None, "")}
