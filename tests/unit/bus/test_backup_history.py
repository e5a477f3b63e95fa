"""The history in a backup directory: what is copied, and when."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from almenara.bus.backup_folder import BackupError, BackupFolder, BackupList, read_list
from almenara.bus.backup_history import (
    COPIED_TABLES,
    REBUILT_TABLES,
    back_up_history,
    restore_history,
)
from almenara.bus.schema import TABLES, VERSION, connect
from almenara.config import StorageSettings
from support.bus import make_events, store_and_seal

pytestmark = pytest.mark.anyio


def test_backup_copies_or_rebuilds_every_table() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(TABLES)
    rows = database.execute("SELECT name FROM pragma_table_list WHERE type <> 'shadow'")
    names = {name for (name,) in rows}
    assert names - {"sqlite_schema", "sqlite_temp_schema"} == {
        *COPIED_TABLES, *REBUILT_TABLES,
    }  # fmt: skip
    database.close()


async def store(folder: Path, first: int, count: int, hot_events: int = 100) -> None:
    settings = StorageSettings(dir=folder, hot_events=hot_events, retention_interval=0.02)
    with (
        patch("almenara.bus.sealing.BLOCK_EVENTS", 200),
        patch("support.bus.BLOCK_EVENTS", 200),
    ):
        await store_and_seal(settings, make_events(first, count))


def back_up(source: Path, target: Path, verify: bool = True) -> BackupFolder:
    target.mkdir(exist_ok=True)
    with BackupFolder(target) as folder:
        history = back_up_history(source, folder, verify=verify)
        folder.commit(
            BackupList(schema=VERSION, created="", events=history.events, files=history.files)
        )
    return folder


def restore(source: Path, target: Path) -> Path:
    target.mkdir()
    listed = read_list(source)
    assert listed is not None
    restore_history(source, listed, target / "almenara.db", lambda done, total: None)
    return target


def dump(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a database, the words of the indexes included."""
    with closing(connect(folder / "almenara.db", writable=True)) as database:
        tables = [*COPIED_TABLES, "blocks", "block_contents", "block_names"]
        database.executescript(
            "CREATE VIRTUAL TABLE temp.block_words_v USING fts5vocab(main, block_words, row);"
            "CREATE VIRTUAL TABLE temp.text_v USING fts5vocab(main, events_text, instance);"
            # Words of sealed events may still be in the index of the original.
            "CREATE TEMP TABLE words AS SELECT v.* FROM temp.text_v v JOIN events ON sequence = doc"
        )
        tables += ["block_words_v", "words"]
        return {name: sorted(database.execute(f"SELECT * FROM {name}")) for name in tables}


def block_files(folder: Path) -> dict[str, int]:
    """The files of blocks, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("blocks-*.db")}


async def test_backup_copies_a_block_once_and_restores_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "log", tmp_path / "backup"
    with patch("almenara.bus.backup_history.SEGMENT_BYTES", 3_000):
        await store(source, 0, 2_000)
        assert len(back_up(source, target).copied) == len(list(target.glob("*.db")))
        before = block_files(target)
        assert len(before) > 2
        assert not back_up(source, target).copied
        await store(source, 2_000, 1_000)
        copied = [file.name for file in back_up(source, target).copied]
    after = block_files(target)
    assert before.items() <= after.items()
    assert {name for name in copied if name.startswith("blocks-")} == after.keys() - before.keys()
    assert dump(restore(target, tmp_path / "restored")) == dump(source)


async def test_backup_drops_files_of_blocks_that_are_deleted(tmp_path: Path) -> None:
    source, target = tmp_path / "log", tmp_path / "backup"
    await store(source, 0, 1_000)
    back_up(source, target)
    first = block_files(target)
    with sqlite3.connect(source / "almenara.db") as database:
        for table, column in (
            ("blocks", "last_sequence"), ("block_contents", "block"), ("block_names", "block"),
        ):  # fmt: skip
            database.execute(f"DELETE FROM {table} WHERE {column} <= 1000")
    database.close()
    await store(source, 1_000, 400)
    others = [target / name for name in ("movie.part", "mine-0123456789abcdef.db", "notes.txt")]
    for path in others:
        path.touch()
    back_up(source, target)
    assert all(path.exists() for path in others)
    assert not first.keys() & block_files(target).keys()


async def test_backup_replaces_a_damaged_file(tmp_path: Path) -> None:
    source, target = tmp_path / "log", tmp_path / "backup"
    await store(source, 0, 1_000)
    back_up(source, target)
    (name,) = block_files(target)
    path = target / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackupError, match=r"blocks-.* is damaged"):
        restore(target, tmp_path / "first")
    # The size is right, so it takes the checksum.
    assert not back_up(source, target, verify=False).copied
    assert [file.name for file in back_up(source, target).copied] == [name]
    assert dump(restore(target, tmp_path / "second")) == dump(source)


async def test_restore_refuses_a_backup_that_is_not_complete(tmp_path: Path) -> None:
    source, target = tmp_path / "log", tmp_path / "backup"
    await store(source, 0, 1_000)
    back_up(source, target)
    (name,) = block_files(target)
    (target / name).unlink()
    with pytest.raises(BackupError, match="is missing"):
        restore(target, tmp_path / "restored")
    (target / "backup.json").write_text("{")
    with pytest.raises(BackupError, match="damaged"):
        read_list(target)


async def test_second_backup_at_a_time_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("backup").mkdir()
    with (
        BackupFolder(tmp_path / "backup"),
        pytest.raises(BackupError, match="Another backup"),
        BackupFolder(tmp_path / "backup"),
    ):
        pass
