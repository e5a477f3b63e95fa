"""Turns a database back into one of a former version, to test migration."""

import sqlite3
from contextlib import closing
from pathlib import Path

from almenara.bus.text_index import SEARCHED_DATA_BEFORE_8, decode_text


def downgrade_to_9(path: Path) -> None:
    """Move the ids of events into tables with a row for each."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "ALTER TABLE position RENAME COLUMN last_name_before_inline TO has_inline_names"
        )
        (table,) = connection.execute("SELECT seen_generation FROM position").fetchone()
        for number in (0, 1):
            connection.execute(f"CREATE TABLE seen_{number} (key BLOB PRIMARY KEY) WITHOUT ROWID")
            names = [f"event_ids_{number}", *(["new_event_ids"] if number == table else [])]
            for name in names:
                rows = connection.execute(f"SELECT ids FROM {name}").fetchall()
                keys = [(ids[at : at + 16],) for (ids,) in rows for at in range(0, len(ids), 16)]
                connection.executemany(f"INSERT INTO seen_{number} VALUES (?)", keys)
                connection.execute(f"DROP TABLE {name}")
        connection.execute("PRAGMA user_version = 9")


def downgrade_to_8(path: Path) -> None:
    """Remove the second index of text, in which there must be no rows, and the counts of words."""
    downgrade_to_9(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE events_text_1; DROP TABLE block_word_counts; DROP TABLE severe_events;"
            "ALTER TABLE position DROP COLUMN text_table;"
            "ALTER TABLE position DROP COLUMN text_from;"
            "ALTER TABLE position DROP COLUMN former_text_from; PRAGMA user_version = 8;"
        )


def downgrade_to_5(path: Path) -> None:
    """Remove what later schemas added; no event may be sealed."""
    downgrade_to_8(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE blocks; DROP TABLE block_contents; DROP TABLE block_words;"
            "DROP TABLE block_names;"
            "DROP TABLE sealed_rows; ALTER TABLE position DROP COLUMN sealed_through;"
            "ALTER TABLE position DROP COLUMN sealed_events; PRAGMA user_version = 5;"
        )


def downgrade_to_7(path: Path) -> None:
    """Index the rows as schema 7 did, in which a sentence without spaces was one word."""
    downgrade_to_8(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("decode_text", 1, decode_text)
        connection.executescript(
            "INSERT INTO events_text (events_text) VALUES ('delete-all');"
            "INSERT INTO events_text (rowid, subject, data)"
            f" SELECT sequence, subject, {SEARCHED_DATA_BEFORE_8} FROM events;"
            "PRAGMA user_version = 7;"
        )


def downgrade_to_6(path: Path) -> None:
    """Replace the index of the blocks with the table of Bloom filters that schema 6 had."""
    downgrade_to_8(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP TABLE block_words;"
            "CREATE TABLE block_words (block INTEGER PRIMARY KEY, words BLOB NOT NULL);"
            "INSERT INTO block_words SELECT last_sequence, x'00' FROM blocks;"
            "PRAGMA user_version = 6;"
        )
