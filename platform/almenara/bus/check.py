"""Checks every row of the database, and saves what is readable of a damaged one into a new file."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.bus.block_format import DamagedBlockError
from almenara.bus.blocks import copy_block, read_block, read_summary
from almenara.bus.codec import EVENT_COLUMNS, OBSERVATION_COLUMNS, RowDecoder
from almenara.bus.folder import FolderLock, set_aside
from almenara.bus.schema import connect, migrate, require_current
from almenara.bus.text_tables import index_rows
from almenara.bus.writer_thread import DATABASE
from almenara.errors import describe_error
from almenara.signals import format_time

ROWS_AT_ONCE: Final = 500
PAGE_PROBLEMS: Final = 20
"""Problems of SQLite's own check that are reported."""
SEQUENCES_NAMED: Final = 20
NAMES_SHOWN: Final = 12
SMALL_TABLES: Final = (
    "names", "known_resources", "plugin_state", "clock", "new_event_ids", "event_ids_0",
    "event_ids_1",
)  # fmt: skip
"""Tables that are copied whole; of a damaged one as far as it can be read."""


class CheckReport(msgspec.Struct):
    """The result of a check."""

    path: Path
    events: int = 0
    observations: int = 0
    damaged: list[int] = []
    """Sequences of signals that cannot be read, or not as they were written."""
    damaged_blocks: list[str] = []
    """What sealed blocks that cannot be read had, as far as that is known."""
    page_problems: list[str] = []
    """Errors that SQLite reports in the structure of the file."""

    @property
    def is_intact(self) -> bool:
        return not (self.damaged or self.damaged_blocks or self.page_problems)

    def describe(self) -> str:
        """Return the result for people, in a few lines."""
        lines = [
            f"{self.path}: {self.events:,} events and {self.observations:,} resources and samples"
            " are readable."
        ]
        if self.damaged:
            named = ", ".join(map(str, self.damaged[:SEQUENCES_NAMED]))
            more = ", …" if len(self.damaged) > SEQUENCES_NAMED else ""
            lines.append(f"{len(self.damaged):,} signals are damaged: sequence {named}{more}")
        lines += [f"Damaged: {block}" for block in self.damaged_blocks]
        lines += [f"SQLite: {problem}" for problem in self.page_problems]
        if not self.is_intact:
            lines.append(
                "Restore the last backup. Without one, stop Almenara and run `almenara storage"
                " check --repair`: it writes what is readable into a new database and keeps the"
                " damaged file beside it."
            )
        return "\n".join(lines)


def check_database(folder: Path) -> CheckReport:
    """Read every row; the database may be in use.

    Raises `FileNotFoundError` where there is no database, `StorageError` for an older schema, and
    `SchemaTooNewError`.
    """
    path = _database_in(folder)
    report = CheckReport(path)
    try:
        with closing(connect(path, writable=False)) as connection:
            require_current(connection, path)
            # One transaction: sealing moves events between the tables.
            connection.execute("BEGIN")
            report.page_problems = _check_pages(connection)
            readable = list(_read_blocks(connection, report))
            for _ in _read_events(connection, report, readable):
                pass
            for _ in _read_observations(connection, report):
                pass
    except sqlite3.Error as error:
        report.page_problems.append(describe_error(error))
    return report


def repair_database(folder: Path) -> tuple[CheckReport, Path]:
    """Write everything readable into a new database that takes the place of the damaged one.

    Returns what was readable, and where the damaged file is now. Raises `FolderInUseError` while
    Almenara runs, and what `check_database` raises.
    """
    path = _database_in(folder)
    lock = FolderLock.acquire(folder)
    try:
        report = CheckReport(path)
        target = path.with_name(f"{DATABASE}.repaired")
        target.unlink(missing_ok=True)
        with (
            closing(connect(path, writable=False)) as reading,
            closing(connect(target, writable=True)) as writing,
        ):
            migrate(writing, target)
            writing.execute("BEGIN")
            _copy(reading, writing, report)
            writing.execute("COMMIT")
            writing.execute("PRAGMA journal_mode = DELETE").fetchall()
        damaged = set_aside(folder, DATABASE, "damaged")
        target.rename(path)
    finally:
        lock.release()
    return report, damaged


def _database_in(folder: Path) -> Path:
    path = folder / DATABASE
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no database; check storage.dir")
    return path


def _check_pages(connection: sqlite3.Connection) -> list[str]:
    try:
        rows = connection.execute(f"PRAGMA integrity_check({PAGE_PROBLEMS})").fetchall()
    except sqlite3.Error as error:
        return [describe_error(error)]
    return [str(text) for (text,) in rows if text != "ok"]


def _read_blocks(connection: sqlite3.Connection, report: CheckReport) -> Iterator[int]:
    """Yield the ends of the blocks that can be read as they were written."""
    ends: set[int] = set()
    for statement in ("SELECT last_sequence FROM blocks", "SELECT block FROM block_contents"):
        try:
            for (last,) in connection.execute(statement):
                ends.add(last)
        except sqlite3.Error as error:
            report.page_problems.append(f"blocks: {describe_error(error)}")
    for last in sorted(ends):
        try:
            block = read_block(connection, last)
            rows = block.rows(range(block.events))
            good = RowDecoder(is_quiet=True).events(connection, rows)
            read_summary(connection, last)
        except (DamagedBlockError, sqlite3.Error):
            report.damaged_blocks.append(_describe_block(connection, last))
            continue
        report.events += len(good)
        # Rows that were damaged before they were sealed.
        report.damaged += sorted({row[0] for row in rows} - {record.sequence for record in good})
        yield last


def _describe_block(connection: sqlite3.Connection, last: int) -> str:
    try:
        first, events, *times = connection.execute(
            "SELECT first_sequence, events, first_time, last_time FROM blocks"
            " WHERE last_sequence = ?",
            (last,),
        ).fetchone()
        since, until = map(format_time, times)
        names = connection.execute(
            "SELECT text FROM block_names JOIN names USING (number) WHERE block = ?"
            " ORDER BY text LIMIT ?",
            (last, NAMES_SHOWN),
        ).fetchall()
    except (sqlite3.Error, TypeError, ValueError, OverflowError):
        return f"the block of events that ends with sequence {last}"
    return (
        f"a block of {events:,} events, sequence {first} to {last}, from {since} to {until}, with"
        f" the names {', '.join(text for (text,) in names)}"
    )


def _list_sealed_rows(
    connection: sqlite3.Connection, readable: Sequence[int]
) -> list[tuple[int, int]]:
    """Return ranges of rows whose events are in a block too; rows of a damaged block count."""
    try:
        (newest,) = connection.execute("SELECT max(last_sequence) FROM blocks").fetchone()
        if newest in readable:
            return connection.execute("SELECT * FROM sealed_rows").fetchall()
    except sqlite3.Error:
        pass
    return []


def _read_events(
    connection: sqlite3.Connection, report: CheckReport, readable: Sequence[int]
) -> Iterator[int]:
    """Yield the sequences of rows that can be read as they were written.

    `readable` are the ends of the blocks that can be read; what these have is left out.
    """
    sealed = _list_sealed_rows(connection, readable)
    statement = (
        f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.sequence > ? AND e.sequence <= ?"  # nosec B608 # constant fragments, bound values
        " ORDER BY e.sequence LIMIT ?"
    )
    decoder = RowDecoder(is_quiet=True)
    for part in _read_rows(connection, "events", statement, report):
        rows = [row for row in part if not any(first <= row[0] <= last for first, last in sealed)]
        good = {record.sequence for record in decoder.events(connection, rows)}
        report.damaged += [row[0] for row in rows if row[0] not in good]
        report.events += len(good)
        yield from sorted(good)


def _read_observations(connection: sqlite3.Connection, report: CheckReport) -> Iterator[int]:
    statement = (
        f"SELECT {OBSERVATION_COLUMNS} FROM observations WHERE sequence > ? AND sequence <= ?"  # nosec B608 # constant fragments, bound values
        " ORDER BY sequence LIMIT ?"
    )
    decoder = RowDecoder(is_quiet=True)
    for rows in _read_rows(connection, "observations", statement, report):
        good = {record.sequence for record in decoder.observations(rows)}
        report.damaged += [row[0] for row in rows if row[0] not in good]
        report.observations += len(good)
        yield from sorted(good)


def _read_rows(
    connection: sqlite3.Connection, table: str, statement: str, report: CheckReport
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a table in groups; around damaged pages one by one."""
    try:
        first, last = connection.execute(  # nosemgrep: values-written-into-a-statement
            f"SELECT min(sequence), max(sequence) FROM {table}"  # nosec B608 # a table of ours
        ).fetchone()
    except sqlite3.Error as error:
        report.page_problems.append(f"{table}: {describe_error(error)}")
        return
    if first is None:
        return
    cursor = first - 1
    while cursor < last:
        try:
            rows = connection.execute(statement, (cursor, last, ROWS_AT_ONCE)).fetchall()
        except sqlite3.Error:
            end = min(cursor + ROWS_AT_ONCE, last)
            for sequence in range(cursor + 1, end + 1):
                try:
                    rows = connection.execute(statement, (sequence - 1, sequence, 1)).fetchall()
                except sqlite3.Error:
                    report.damaged.append(sequence)
                else:
                    yield rows
            cursor = end
            continue
        if not rows:
            return
        cursor = rows[-1][0]
        yield rows


def _copy(reading: sqlite3.Connection, writing: sqlite3.Connection, report: CheckReport) -> None:
    for table in SMALL_TABLES:
        _copy_table(reading, writing, table, report)
    readable = []
    for last in _read_blocks(reading, report):
        copy_block(reading, writing, last)
        readable.append(last)
    for sequence in _read_events(reading, report, readable):
        row = reading.execute("SELECT * FROM events WHERE sequence = ?", (sequence,)).fetchone()
        marks = ",".join("?" * len(row))
        writing.execute(f"INSERT INTO events VALUES ({marks})", row)  # nosec B608 # nosemgrep: values-written-into-a-statement # constant fragments, bound values
    for sequence in _read_observations(reading, report):
        row = reading.execute(
            "SELECT * FROM observations WHERE sequence = ?", (sequence,)
        ).fetchone()
        marks = ",".join("?" * len(row))
        writing.execute(f"INSERT INTO observations VALUES ({marks})", row)  # nosec B608 # nosemgrep: values-written-into-a-statement # constant fragments, bound values
    index_rows(writing, 0)
    last = max([0, *report.damaged])
    writing.execute(
        "UPDATE position SET last_sequence = max(?,"
        " (SELECT coalesce(max(sequence), 0) FROM events),"
        " (SELECT coalesce(max(last_sequence), 0) FROM blocks),"
        " (SELECT coalesce(max(sequence), 0) FROM observations)),"
        " events = (SELECT count(*) FROM events) + (SELECT coalesce(sum(events), 0) FROM blocks),"
        " sealed_events = (SELECT coalesce(sum(events), 0) FROM blocks),"
        " sealed_through = (SELECT coalesce(max(last_sequence), 0) FROM blocks),"
        " last_name = (SELECT coalesce(max(number), 0) FROM names),"
        " last_name_before_inline = 1",
        (last,),
    )
    _copy_position(reading, writing)
    writing.execute(
        "INSERT INTO name_pairs SELECT origin, type, count(*) FROM events"
        " WHERE typeof(origin) = 'integer' AND typeof(type) = 'integer' GROUP BY origin, type"
        " ON CONFLICT DO UPDATE SET uses = uses + excluded.uses"
    )
    # Counts of uses may be wrong by what is lost. As for events from before schema 4, names are
    # removed only after all events of now.
    writing.execute("UPDATE names SET uses = 0")
    writing.execute(
        "UPDATE position SET names_counted_from = last_sequence, uncounted_through = last_sequence"
    )


def _copy_position(reading: sqlite3.Connection, writing: sqlite3.Connection) -> None:
    """Take over the time of the log and the last sequence, so that no sequence is used twice, and
    how many ids of events are known."""
    try:
        row = reading.execute(
            "SELECT last_sequence, anchor, seen_generation, seen_count FROM position"
        ).fetchone()
    except sqlite3.Error:
        return
    if row is not None:
        writing.execute(
            "UPDATE position SET last_sequence = max(last_sequence, ?), anchor = ?,"
            " seen_generation = ?, seen_count = ?",
            row,
        )


def _copy_table(
    reading: sqlite3.Connection, writing: sqlite3.Connection, table: str, report: CheckReport
) -> None:
    try:
        for row in reading.execute(f"SELECT * FROM {table}"):  # nosec B608 # nosemgrep: values-written-into-a-statement # a table of ours
            marks = ",".join("?" * len(row))
            writing.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # nosec B608 # nosemgrep: values-written-into-a-statement # constant fragments, bound values
    except sqlite3.Error as error:
        report.page_problems.append(f"{table}: {describe_error(error)}")
