"""What the writer thread does with the database: batches in, each in one transaction."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.bus import Record, codec
from almenara.bus.schema import INDEXED_DATA, connect, migrate
from almenara.config import StorageSettings
from almenara.signals import Event, Resource, Signal, now

NAMES_REMEMBERED: Final = 10_000
KEYS_PER_QUERY: Final = 500
Redact = Callable[[Signal], Signal]
"""What a signal becomes before it is written: secrets in it are masked."""
CLOCK_SHARE: Final = 1_000
"""The clock is noted this many times within the shortest retention."""


class Submission(msgspec.Struct):
    """A batch that waits for the writer, and what became of it."""

    signals: Sequence[Signal]
    origin: str
    finish: Callable[[Exception | None], None]
    """Called on the event loop once the batch is durable, or with why it was refused."""
    records: list[Record] = []
    duplicates: int = 0
    refused: Exception | None = None


class StateWrite(msgspec.Struct):
    """A plugin's value that waits for the writer."""

    plugin: str
    key: str
    value: bytes
    finish: Callable[[Exception | None], None]
    refused: Exception | None = None


class Writer:
    """The one connection that writes the log."""

    def __init__(
        self, path: Path, settings: StorageSettings, redact: Redact = lambda signal: signal
    ) -> None:
        self.settings, self.redact = settings, redact
        self.connection = connect(path, writable=True)
        try:
            migrate(self.connection, path)
            self.last_sequence, self._generation, self._seen = self.connection.execute(
                "SELECT last_sequence, seen_generation, seen_count FROM position"
            ).fetchone()
        except BaseException:
            self.connection.close()
            raise
        self._numbers: dict[str, int] = {}
        self._last_clock = 0
        shortest = min(settings.retention_age, settings.sample_retention_age)
        self._clock_interval = int(shortest * 1_000_000 / CLOCK_SHARE)

    def close(self) -> None:
        self.connection.close()

    def write(self, group: Sequence[Submission | StateWrite]) -> list[Record]:
        """Write everything of the group or, on an error of the database, nothing.

        Events seen before are left out; a batch that holds something unwritable is refused whole.
        Raises `sqlite3.Error`, after which the group may be written again.
        """
        batches = [item for item in group if isinstance(item, Submission)]
        settled = [(batch, signals) for batch in batches if (signals := self._settled(batch))]
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            records, keys = self._number(settled)
            self._insert(records, keys)
            self._note_known_resources(settled)
            for item in group:
                if isinstance(item, StateWrite):
                    connection.execute(
                        "INSERT INTO plugin_state VALUES (?, ?, ?)"
                        " ON CONFLICT DO UPDATE SET value = excluded.value",
                        (item.plugin, item.key, item.value),
                    )
            last = self.last_sequence + len(records)
            generation, seen = self._generation, self._seen + len(keys)
            if seen >= self.settings.deduplication_window:
                generation, seen = 1 - generation, 0
                connection.execute(f"DELETE FROM seen_{generation}")  # nosec B608 # constant fragments, bound values
            if records:
                connection.execute(
                    "UPDATE position SET last_sequence = ?, seen_generation = ?, seen_count = ?,"
                    " events = events + ?",
                    (last, generation, seen, len(keys)),
                )
                moment = now()
                if abs(moment - self._last_clock) >= self._clock_interval:
                    connection.execute("INSERT OR REPLACE INTO clock VALUES (?, ?)", (moment, last))
                    self._last_clock = moment
            connection.execute("COMMIT")
        except BaseException:
            self._numbers.clear()
            self._last_clock = 0
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.last_sequence, self._generation, self._seen = last, generation, seen
        return records

    def _settled(self, batch: Submission) -> list[Signal]:
        try:
            return [codec.normalize(self.redact(it), batch.origin) for it in batch.signals]
        except ValueError as error:
            batch.refused = error
            return []

    def _number(
        self, settled: Sequence[tuple[Submission, list[Signal]]]
    ) -> tuple[list[Record], list[bytes]]:
        keyed = [
            [(codec.event_key(it) if isinstance(it, Event) else None, it) for it in signals]
            for _, signals in settled
        ]
        seen = self._already_seen([key for part in keyed for key, _ in part if key is not None])
        records: list[Record] = []
        keys: list[bytes] = []
        sequence = self.last_sequence
        for (batch, _), part in zip(settled, keyed, strict=True):
            batch.records, batch.duplicates = [], 0
            for key, signal in part:
                if key is not None:
                    if key in seen:
                        batch.duplicates += 1
                        continue
                    seen.add(key)
                    keys.append(key)
                sequence += 1
                batch.records.append(Record(sequence, signal))
            records.extend(batch.records)
        return records, keys

    def _already_seen(self, keys: Sequence[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        for start in range(0, len(keys), KEYS_PER_QUERY):
            part = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            for table in ("seen_0", "seen_1"):
                found.update(
                    row[0]
                    for row in self.connection.execute(
                        f"SELECT key FROM {table} WHERE key IN ({marks})",  # nosec B608 # constant fragments, bound values
                        part,
                    )
                )
        return found

    def _insert(self, records: Sequence[Record], keys: Sequence[bytes]) -> None:
        execute, many = self.connection.execute, self.connection.executemany
        events: list[tuple[Any, ...]] = []
        observations: list[tuple[int, int, str]] = []
        for record in records:
            if isinstance(record.signal, Event):
                events.append(codec.event_row(record.sequence, record.signal, self._name))
            else:
                observations.append(codec.observation_row(record.sequence, record.signal))
        if events:
            many("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", events)
            execute(
                "INSERT INTO events_text (rowid, subject, data)"  # nosec B608 # constant fragments, bound values
                f" SELECT sequence, subject, {INDEXED_DATA} FROM events WHERE sequence >= ?",
                (events[0][0],),
            )
            many(f"INSERT INTO seen_{self._generation} VALUES (?)", ((key,) for key in keys))  # nosec B608 # constant fragments, bound values
        if observations:
            many("INSERT INTO observations VALUES (?, ?, ?)", observations)

    def _note_known_resources(self, settled: Sequence[tuple[Submission, list[Signal]]]) -> None:
        last = {
            (batch.origin, *it.key): it.deleted
            for batch, signals in settled
            for it in signals
            if isinstance(it, Resource)
        }
        if there := [key for key, gone in last.items() if not gone]:
            self.connection.executemany(
                "INSERT OR IGNORE INTO known_resources VALUES (?, ?, ?, ?)",
                there,
            )
        if gone := [key for key, gone in last.items() if gone]:
            self.connection.executemany(
                "DELETE FROM known_resources"
                " WHERE source = ? AND kind = ? AND namespace = ? AND name = ?",
                gone,
            )

    def _name(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            found = self.connection.execute(
                "SELECT number FROM names WHERE text = ?", (text,)
            ).fetchone()
            if found is None:
                number = self.connection.execute(
                    "INSERT INTO names (text) VALUES (?)", (text,)
                ).lastrowid
            else:
                number = found[0]
            if number is None:
                raise RuntimeError(f"SQLite gave the name {text!r} no number")
            if len(self._numbers) >= NAMES_REMEMBERED:
                self._numbers.clear()
            self._numbers[text] = number
        return number


def describe_write_error(error: sqlite3.Error, folder: Path) -> str:
    """What an error of the database means for the person who runs it, and what to do."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if name == "SQLITE_FULL":
        return (
            f"The disk that holds {folder} is full. Sources are held back and nothing is lost;"
            " free some space, or lower storage.retention_size, and writing goes on by itself."
        )
    return (
        f"The database in {folder} cannot be written: {error} ({name}). Sources are held back and"
        " nothing is lost; check the disk and the folder's permissions. Writing is tried again."
    )
