"""What the writer thread does with the database: batches in, each group in one transaction."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.bus import Record, retention
from almenara.bus.codec import Redact, event_key, event_row, observation_row
from almenara.bus.counts import EventCounts, add_groups
from almenara.bus.event_ids import EventIds
from almenara.bus.ingest import IngestRules, normalize_batch
from almenara.bus.known_resources import KnownResources
from almenara.bus.log_clock import Anchor, LogClock
from almenara.bus.log_state import Fences
from almenara.bus.names import NameTable, add_pairs
from almenara.bus.schema import connect, migrate
from almenara.bus.text_tables import index_rows
from almenara.bus.validation import InvalidSignalError
from almenara.bus.work import LogEntry, StateWrite, Submission, Work
from almenara.clock import Clock
from almenara.config import StorageSettings
from almenara.signals import Event, Signal
from almenara.units import SECOND

CLOCK_NOTES: Final = 1_000
"""Notes of the log's time within the shortest retention, which bounds how exact removal is."""

NAMESPACE: Final = 13
"""Column of the row of an event."""

Accepted = list[tuple[Submission, list[Signal]]]
"""Batches with their signals as they are to be stored."""


class Writer:
    """The one connection that writes the log."""

    def __init__(
        self,
        path: Path,
        settings: StorageSettings,
        redact: Redact | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings, self._redact = settings, redact
        self._ingest = IngestRules(settings.ingest_rules)
        self.connection = connect(path, writable=True)
        try:
            migrate(self.connection, path)
            self.names = NameTable(self.connection, settings.max_names)
            self.known_resources = KnownResources(self.connection, settings.max_resources)
            self.fences = Fences(self.connection)
            self.event_ids = EventIds(self.connection, settings.deduplication_window)
            (self.last_sequence,) = self.connection.execute(
                "SELECT last_sequence FROM position"
            ).fetchone()
            self.clock = self._open_clock(clock)
        except BaseException:
            self.connection.close()
            raise
        self._last_note = 0
        ages = [rule.age for rule in settings.retention_rules]
        shortest = min(settings.retention_age, settings.sample_retention_age, *ages)
        self._note_interval = int(shortest * SECOND / CLOCK_NOTES)

    def _open_clock(self, clock: Clock | None) -> LogClock:
        (stored,) = self.connection.execute("SELECT anchor FROM position").fetchone()
        anchor: Anchor | None
        if stored is not None:
            anchor = msgspec.json.decode(stored, type=Anchor)
        else:
            # A log from before schema 4: its newest note is the best that is known.
            retention.repair_clock(self.connection, LogClock(None, clock).advance())
            (noted,) = self.connection.execute("SELECT max(time) FROM clock").fetchone()
            anchor = None if noted is None else Anchor(noted, 0, "")
        return LogClock(anchor, clock)

    def close(self) -> None:
        """Store the log's time, move everything into the database file, and close it."""
        try:
            if not self.connection.in_transaction:
                self._store_anchor()
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self.connection.close()

    def _store_anchor(self) -> None:
        self.clock.advance()
        anchor = msgspec.json.encode(self.clock.anchor()).decode()
        self.connection.execute("UPDATE position SET anchor = ?", (anchor,))

    def write(self, group: Sequence[Work]) -> list[Record]:
        """Write everything of the group or, on an error of the database, nothing.

        Events seen before are left out; a batch with a wrong signal is refused whole, and no other.
        Raises `sqlite3.Error`, after which the group may be written again.
        """
        connection = self.connection
        prepared = self._prepare(group)
        before, known_ids = self.last_sequence, self.event_ids.mark()
        records: list[Record] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for batches in self._split(prepared):
                records += self._store(batches)
            for item in group:
                if isinstance(item, StateWrite):
                    self._save(item.plugin, item.key, item.value)
            entries = [item for item in group if isinstance(item, LogEntry)]
            for change in self.fences.take_changes(entries):
                self._save(*change)
            if records:
                self._note_time(self.last_sequence)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.last_sequence = before
            self.event_ids.restore(known_ids)
            self.reload()
            raise
        return records

    def _split(self, prepared: Accepted) -> list[Accepted]:
        """Return the batches that are stored together.

        Entries of a shared log come in groups that differ between replicas. Near a limit, what is
        stored would depend on the group, so they are stored one by one.
        """
        if not any(isinstance(batch, LogEntry) for batch, _ in prepared):
            return [prepared]
        signals = sum(len(signals) for _, signals in prepared)
        is_near_limit = (
            self.event_ids.is_near_limit(signals)
            or self.known_resources.highest + signals > self.known_resources.limit
        )
        return [[batch] for batch in prepared] if is_near_limit else [prepared]

    def _store(self, batches: Accepted) -> list[Record]:
        """Store batches in the open transaction and return their records."""
        accepted = [
            (batch, self._limit_resources(batch, signals))
            for batch, signals in batches
            if not isinstance(batch, LogEntry) or self.fences.admit(batch)
        ]
        records, keys = self._number(accepted)
        self._insert(records)
        for batch, signals in accepted:
            self.known_resources.store(batch.origin, signals)
            for change in batch.changes:
                self._save(*change)
        if records:
            self.last_sequence = records[-1].sequence
        self.event_ids.add(keys)
        if records:
            self.connection.execute(
                "UPDATE position SET last_sequence = ?, seen_generation = ?, seen_count = ?,"
                " events = events + ?",
                (self.last_sequence, self.event_ids.table, self.event_ids.count, len(keys)),
            )
        return records

    def reload(self) -> None:
        """Drop what is remembered of the tables and may not be in them."""
        self._last_note = 0
        self.names.reload()
        self.known_resources.reload()
        self.fences.reload()

    def _prepare(self, group: Sequence[Work]) -> Accepted:
        """Return the batches of a group without those that have a wrong signal."""
        prepared: Accepted = []
        for item in group:
            if isinstance(item, LogEntry):
                item.refused, item.duplicates = None, 0
                prepared.append((item, list(item.signals)))
            elif isinstance(item, Submission):
                item.refused, item.duplicates = None, 0
                try:
                    signals, item.left_out = normalize_batch(
                        item.signals, item.origin, self._redact, self._ingest
                    )
                except InvalidSignalError as error:
                    item.refused = error
                else:
                    prepared.append((item, signals))
        return prepared

    def _limit_resources(self, batch: Submission, signals: list[Signal]) -> list[Signal]:
        admitted = self.known_resources.admit(batch.origin, signals)
        batch.dropped = len(signals) - len(admitted)
        return admitted

    def _number(self, accepted: Accepted) -> tuple[list[Record], list[bytes]]:
        """Return the records of the signals that are not known, and the ids of their events."""
        keyed = [
            [(event_key(signal) if isinstance(signal, Event) else None) for signal in signals]
            for _, signals in accepted
        ]
        ids = [key for part in keyed for key in part if key is not None]
        seen = self.event_ids.find(ids)
        if not seen and len(set(ids)) == len(ids):
            return self._number_new(accepted), ids
        records: list[Record] = []
        new_ids: list[bytes] = []
        sequence = self.last_sequence
        for (batch, signals), part in zip(accepted, keyed, strict=True):
            first = batch.first_sequence if isinstance(batch, LogEntry) else 0
            for place, (key, signal) in enumerate(zip(part, signals, strict=True)):
                if key is not None:
                    if key in seen:
                        batch.duplicates += 1
                        continue
                    seen.add(key)
                    new_ids.append(key)
                sequence = first + place if first else sequence + 1
                records.append(Record(sequence, signal))
        return records, new_ids

    def _number_new(self, accepted: Accepted) -> list[Record]:
        records: list[Record] = []
        sequence = self.last_sequence
        for batch, signals in accepted:
            if signals:
                first = batch.first_sequence if isinstance(batch, LogEntry) else sequence + 1
                records += map(Record, itertools.count(first), signals)
                sequence = records[-1].sequence
        return records

    def _insert(self, records: Sequence[Record]) -> None:
        many = self.connection.executemany
        number = self.names.number
        events: list[tuple[Any, ...]] = []
        observations: list[tuple[int, int, str, int]] = []
        for record in records:
            signal = record.signal
            if isinstance(signal, Event):
                events.append(event_row(record.sequence, signal, number))
            else:
                observations.append(observation_row(record.sequence, signal))
        if events:
            many(f"INSERT INTO events VALUES ({','.join('?' * len(events[0]))})", events)  # nosec B608 # constant fragments, bound values
            index_rows(self.connection, events[0][0])
            counts = EventCounts(NAMESPACE)
            counts.add(events)
            self.names.add_uses(counts.uses)
            add_pairs(self.connection, counts.pairs())
            add_groups(self.connection, counts.groups)
        if observations:
            many("INSERT INTO observations VALUES (?, ?, ?, ?)", observations)

    def _save(self, owner: str, key: str, value: bytes | None) -> None:
        if value is None:
            self.connection.execute(
                "DELETE FROM plugin_state WHERE plugin = ? AND key = ?", (owner, key)
            )
            return
        self.connection.execute(
            "INSERT INTO plugin_state VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = excluded.value",
            (owner, key, value),
        )

    def _note_time(self, last: int) -> None:
        moment = self.clock.advance()
        if moment - self._last_note >= self._note_interval:
            self.connection.execute("INSERT OR REPLACE INTO clock VALUES (?, ?)", (moment, last))
            self._store_anchor()
            self._last_note = moment
