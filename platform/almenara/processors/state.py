"""The durable values and timers of one processor, in memory, with the changes to commit."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

MAX_VALUE: Final = 2**20
"""Bytes of one value."""
MIN_COMPACTED: Final = 1_000
"""Entries of timers, at least, before those that are no longer set are removed."""
VALUE, TIMER, CURSOR = "value:", "timer:", "cursor"
"""The keys of the store: values and timers of the processor, and its position in the log."""


class StateError(ValueError):
    """A value that a processor cannot store."""


class StoredState:
    """Values as bytes by stored key; a call that fails is undone with `rollback`."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self._stored = dict(stored)
        self._changed: set[str] = set()
        self._before: dict[str, bytes | None] = {}
        """What the running call has replaced."""
        self._timers: list[tuple[int, str]] = [
            (int(value), key.removeprefix(TIMER))
            for key, value in stored.items()
            if key.startswith(TIMER)
        ]
        heapq.heapify(self._timers)
        self._compacted_at = max(2 * len(self._timers), MIN_COMPACTED)

    # hookspecs.ProcessorState

    def get(self, key: str, kind: type[T]) -> T | None:
        stored = self._stored.get(VALUE + key)
        return None if stored is None else msgspec.json.decode(stored, type=kind)

    def set(self, key: str, value: Any) -> None:
        encoded = msgspec.json.encode(value)
        if len(encoded) > MAX_VALUE:
            raise StateError(
                f"the value of {key!r} has {len(encoded):,} bytes; the limit is {MAX_VALUE:,}"
            )
        self._put(VALUE + key, encoded)

    def delete(self, key: str) -> None:
        self._put(VALUE + key, None)

    def keys(self, prefix: str = "") -> Sequence[str]:
        return sorted(
            key.removeprefix(VALUE) for key in self._stored if key.startswith(VALUE + prefix)
        )

    # Timers

    def set_timer(self, key: str, at: int) -> None:
        """Set a timer."""
        encoded = str(at).encode()
        if self._stored.get(TIMER + key) == encoded:
            return
        self._put(TIMER + key, encoded)
        heapq.heappush(self._timers, (at, key))
        if len(self._timers) > self._compacted_at:
            self._compact_timers()

    def cancel_timer(self, key: str) -> None:
        """Cancel a timer, if it is set."""
        self._put(TIMER + key, None)

    @property
    def next_timer(self) -> tuple[int, str] | None:
        """Time and key of the timer that is due first."""
        while self._timers:
            at, key = self._timers[0]
            if self._is_set(key, at):
                return at, key
            # Cancelled, or set to another time.
            heapq.heappop(self._timers)
        return None

    def _compact_timers(self) -> None:
        """Remove the entries of timers that were set to another time, as those below the first one
        would stay until it is due."""
        self._timers = [(at, key) for at, key in {*self._timers} if self._is_set(key, at)]
        heapq.heapify(self._timers)
        self._compacted_at = max(2 * len(self._timers), MIN_COMPACTED)

    def _is_set(self, key: str, at: int) -> bool:
        return self._stored.get(TIMER + key) == str(at).encode()

    # Changes

    def _put(self, key: str, value: bytes | None) -> None:
        before = self._stored.get(key)
        if before == value:
            return
        self._before.setdefault(key, before)
        self._changed.add(key)
        if value is None:
            del self._stored[key]
        else:
            self._stored[key] = value

    def accept(self) -> None:
        """Accept the changes of the call that has returned."""
        self._before.clear()

    def rollback(self) -> None:
        """Undo the changes of the call that has failed."""
        for key, value in self._before.items():
            if value is None:
                self._stored.pop(key, None)
            else:
                self._stored[key] = value
                if key.startswith(TIMER):
                    heapq.heappush(self._timers, (int(value), key.removeprefix(TIMER)))
        self._before.clear()

    @property
    def has_changes(self) -> bool:
        """Whether there are changes to commit."""
        return bool(self._changed)

    def take_changes(self) -> list[tuple[str, bytes | None]]:
        """Return the changes since the last call of this, to be committed."""
        changes = [(key, self._stored.get(key)) for key in sorted(self._changed)]
        self._changed.clear()
        return changes
