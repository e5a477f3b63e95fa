"""What the local index of a replica records of a shared log, in the table `plugin_state`."""

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.bus import StateChange
from almenara.bus.work import LogEntry, LogPosition
from almenara.errors import Unavailable

OWNER: Final = "almenara/log"
POSITION: Final = "position"
SNAPSHOT: Final = "snapshot"
FENCE: Final = "fence/"


class FencedError(Unavailable):
    """Another replica runs the source by now; nothing of the batch is stored anywhere."""


class Fences:
    """The newest token that the log has of each origin.

    A batch with an older one was published by a replica that has lost its lease, and does not know
    it yet. Whether a batch is stored depends on the log before it alone.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tokens: dict[str, int] = {}
        self._changed: dict[str, int] = {}
        self.reload()

    def reload(self) -> None:
        """Read the tokens again, after a transaction that was rolled back."""
        self._changed = {}
        rows = self._connection.execute(
            "SELECT key, value FROM plugin_state WHERE plugin = ? AND key GLOB ?",
            (OWNER, f"{FENCE}*"),
        )
        self._tokens = {key.removeprefix(FENCE): int(value) for key, value in rows}

    def admit(self, entry: LogEntry) -> bool:
        """Whether an entry is to be applied; its token counts for those that follow."""
        if not entry.token:
            return True
        newest = self._tokens.get(entry.origin, 0)
        if entry.token < newest:
            entry.refused = FencedError(
                f"another replica runs the source {entry.origin} (token {newest}; this one had"
                f" {entry.token})"
            )
            return False
        if entry.token > newest:
            self._tokens[entry.origin] = self._changed[entry.origin] = entry.token
        return True

    def take_changes(self, entries: Sequence[LogEntry]) -> list[StateChange]:
        """Return what to store with a group of entries: the new tokens, and the position."""
        changes: list[StateChange] = [
            (OWNER, f"{FENCE}{origin}", str(token).encode())
            for origin, token in self._changed.items()
        ]
        self._changed = {}
        if entries:
            changes.append((OWNER, POSITION, msgspec.json.encode(entries[-1].at)))
        return changes


def decode_position(value: bytes | None) -> LogPosition | None:
    """Return the stored position; None where no shared log was ever applied."""
    return None if value is None else msgspec.json.decode(value, type=LogPosition)
