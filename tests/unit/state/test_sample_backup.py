"""The sample store in a backup directory: a day is copied once, and restored."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from almenara.bus.backup_folder import BackupError, BackupFolder, BackupList, read_list
from almenara.state.sample_backup import back_up_samples, restore_samples
from almenara.state.sample_codec import Points, encode_points
from almenara.state.sample_schema import chunk_key, open_database

DAYS = range(20_000, 20_006)


def store(folder: Path, days: range) -> None:
    """Store a chunk of two series in every window, and rollups, of some days."""
    with closing(open_database(folder / "samples.db")) as database:
        for day in days:
            for window in range(day * 12, (day + 1) * 12):
                for number in (1, 2):
                    body = encode_points(Points([window, window + 1], [number, day]))
                    for table in ("raw", "minutes"):
                        row = (chunk_key(window, number), body)
                        database.execute(f"INSERT INTO {table} VALUES (?, ?)", row)
            database.execute("INSERT INTO hours VALUES (?, ?)", (chunk_key(day, 1), b"hours"))
        database.execute("UPDATE position SET last_sequence = ?", (days[-1],))
        database.execute("INSERT INTO fresh VALUES (?, ?)", (chunk_key(days[-1], 1), b"fresh"))


def back_up(source: Path, target: Path) -> list[str]:
    """Make a backup, and return the stems of what it copied."""
    target.mkdir(exist_ok=True)
    with BackupFolder(target) as folder:
        files = back_up_samples(source, folder, verify=True)
        folder.commit(BackupList(schema=1, created="", events=0, files=files))
    return sorted(file.name.rsplit("-", 2)[0] for file in folder.copied)


def restore(source: Path, target: Path) -> Path:
    listed = read_list(source)
    assert listed is not None
    target.mkdir()
    restore_samples(source, listed, target / "samples.db")
    return target


def dump(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(folder / "samples.db")) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: sorted(database.execute(f"SELECT * FROM {name}")) for (name,) in tables}


def test_backup_copies_a_day_of_samples_once(tmp_path: Path) -> None:
    source, target = tmp_path / "data", tmp_path / "backup"
    source.mkdir()
    store(source, DAYS[:4])
    tables = ("hours", "minutes", "raw")
    rest = ["samples"]
    closed = [f"samples-{table}-{day}" for table in tables for day in DAYS[:2]]
    assert back_up(source, target) == rest + closed
    assert dump(restore(target, tmp_path / "first")) == dump(source)
    assert back_up(source, target) == []
    store(source, DAYS[4:])
    closed = [f"samples-{table}-{day}" for table in tables for day in DAYS[2:4]]
    assert back_up(source, target) == rest + closed
    # A late sample, and retention.
    with closing(sqlite3.connect(source / "samples.db")) as database, database:
        key = chunk_key(DAYS[0] * 12, 1)
        database.execute("UPDATE minutes SET body = x'00' WHERE key = ?", (key,))
        database.execute("DELETE FROM raw WHERE key < ?", (chunk_key(DAYS[3] * 12, 0),))
    assert back_up(source, target) == [*rest, f"samples-minutes-{DAYS[0]}"]
    assert not list(target.glob(f"samples-raw-{DAYS[0]}-*"))
    assert dump(restore(target, tmp_path / "second")) == dump(source)


def test_restore_refuses_a_backup_without_a_day(tmp_path: Path) -> None:
    tmp_path.joinpath("data").mkdir()
    store(tmp_path / "data", DAYS)
    back_up(tmp_path / "data", tmp_path / "backup")
    next((tmp_path / "backup").glob("samples-hours-*")).unlink()
    with pytest.raises(BackupError, match="missing"):
        restore(tmp_path / "backup", tmp_path / "restored")
