"""Stored samples and checkpoints, and damage to them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from almenara.config import CheckpointSettings
from almenara.signals import Resource
from almenara.state.checkpoints import CheckpointDatabase
from almenara.state.sample_codec import Points, encode_points
from almenara.state.sample_schema import open_database


def store_state(folder: Path) -> None:
    """Store three chunks of samples, one checkpoint and one change."""
    with closing(open_database(folder / "samples.db")) as samples:
        body = encode_points(Points([1_000, 2_000], [1.0, 2.5]))
        samples.executemany("INSERT INTO raw VALUES (?, ?)", [(key, body) for key in range(3)])
    database = CheckpointDatabase(folder / "resources.db", CheckpointSettings())
    pods = [Resource(kind="pod", name=str(number)) for number in range(300)]
    database.store_checkpoint(10, 300, pods)
    database.store_changes([(11, pods[0])], 301)
    database.close()


def damage_body(path: Path, table: str) -> None:
    """Change the last byte of one stored body."""
    with closing(sqlite3.connect(path)) as connection, connection:
        row, body = connection.execute(f"SELECT rowid, body FROM {table} LIMIT 1").fetchone()
        wrong = body[:-1] + bytes([body[-1] ^ 0xFF])
        connection.execute(f"UPDATE {table} SET body = ? WHERE rowid = ?", (wrong, row))
