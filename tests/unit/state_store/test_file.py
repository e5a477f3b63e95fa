"""Values in a file: revisions, changes, and files of the format before."""

import asyncio
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from almenara.shared_log import ValueChange
from almenara.state_store import StoredValue
from almenara.state_store.file import FileStateStore, FormatError, FormerTables, ValueFile

pytestmark = pytest.mark.anyio


def read_former(connection: sqlite3.Connection) -> dict[str, bytes]:
    rows = connection.execute("SELECT name, body FROM things")
    return {f"thing.{name}": body.encode() for name, body in rows}


def open_file(folder: Path) -> ValueFile:
    return ValueFile(folder / "values.db", FormerTables(("things",), read_former))


def write_former(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "values.db")) as connection:
        connection.executescript(
            "CREATE TABLE things (name TEXT, body TEXT);"
            "INSERT INTO things VALUES ('a', 'one'), ('b', 'two'); PRAGMA user_version = 1;"
        )


async def test_value_is_replaced_by_its_revision_alone(tmp_path: Path) -> None:
    one, other = FileStateStore(open_file(tmp_path)), FileStateStore(open_file(tmp_path))
    first = await one.put("a", b"1", 0)
    assert first is not None
    assert await other.put("a", b"2", 0) is None
    second = await other.put("a", b"2", first)
    assert second is not None
    assert second > first
    assert await one.put("a", b"3", first) is None
    assert not await one.delete("a", first)
    assert await one.get("a") == StoredValue(b"2", second)
    assert await one.delete("a", second)
    assert not await one.delete("a", second)
    assert await one.get("a") is None
    # A value that is created again must not have a revision that it had before.
    third = await one.put("a", b"4", 0)
    assert third is not None
    assert third > second


async def test_values_are_listed_by_prefix_and_survive_the_process(tmp_path: Path) -> None:
    store = FileStateStore(open_file(tmp_path))
    for key in ("b.2", "a.1", "b.1", "B.1", "b%"):
        await store.put(key, key.encode(), 0)
    listed = await FileStateStore(open_file(tmp_path)).list_values("b.")
    assert [(key, each.value) for key, each in listed.items()] == [("b.1", b"b.1"), ("b.2", b"b.2")]
    assert (tmp_path / "values.db").stat().st_mode & 0o777 == 0o600


async def test_watch_yields_what_another_process_changes(tmp_path: Path) -> None:
    store = FileStateStore(open_file(tmp_path))
    revision = await store.put("a.1", b"1", 0)
    assert revision is not None
    changes = store.watch("a.")
    assert [await anext(changes) for _ in range(2)] == [ValueChange("a.1", b"1", revision), None]
    other = FileStateStore(open_file(tmp_path))
    await other.put("b.1", b"x", 0)
    await other.delete("a.1", revision)
    async with asyncio.timeout(60):
        change = await anext(changes)
    assert change == ValueChange("a.1", None, revision)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_file_of_the_former_format_is_migrated_once(tmp_path: Path) -> None:
    write_former(tmp_path)
    stores = [FileStateStore(open_file(tmp_path)) for _ in range(4)]
    listed = await asyncio.gather(*(store.list_values("thing.") for store in stores))
    assert listed.count(listed[0]) == len(stores)
    assert [(key, each.value) for key, each in listed[0].items()] == [
        ("thing.a", b"one"), ("thing.b", b"two"),
    ]  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "values.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "things" not in tables


async def test_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_former(tmp_path)

    def fail(connection: sqlite3.Connection) -> dict[str, bytes]:
        raise ValueError("for a test")

    broken = ValueFile(tmp_path / "values.db", FormerTables(("things",), fail))
    with pytest.raises(ValueError, match="for a test"):
        broken.read()
    assert len(await FileStateStore(open_file(tmp_path)).list_values()) == 2


def test_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "values.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(FormatError, match="newer version"):
        open_file(tmp_path).read()


def test_changes_are_read_by_revision(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    assert file.read_changes(("a.", "b."), {}) == ({}, {})
    file.set_all({"a.1": b"1", "b.1": b"2", "c.1": b"3", "a": b"4"})
    known, changed = file.read_changes(("a.", "b."), {})
    assert {key: each.value for key, each in changed.items()} == {"a.1": b"1", "b.1": b"2"}
    assert known == {key: each.revision for key, each in changed.items()}
    file.set_all({"a.1": None, "a.2": b"5", "b.1": b"6", "c.1": b"7"})
    # A value that is deleted and created again has another revision than before.
    file.set_all({"a.2": None})
    file.set_all({"a.2": b"5"})
    revisions, changed = file.read_changes(("a.", "b."), known)
    assert {key: each.value for key, each in changed.items()} == {"a.2": b"5", "b.1": b"6"}
    assert revisions.keys() == {"a.2", "b.1"}
    assert min(revisions.values()) > max(known.values())
    assert file.read_changes(("a.", "b."), revisions) == (revisions, {})
    assert file.read_keys(["a.2", "a.3"]) == {"a.2": changed["a.2"]}


def test_update_reads_and_writes_in_one_transaction(tmp_path: Path) -> None:
    file, other = open_file(tmp_path), open_file(tmp_path)
    file.set_all({"a": b"1"})
    removed: list[bool] = []
    remover = threading.Thread(target=lambda: removed.append(other.remove("a")))

    def change(stored: Mapping[str, bytes]) -> dict[str, bytes | None]:
        remover.start()
        remover.join(0.3)
        return {"a": stored["a"] + b"2", "b": b"3"}

    file.update(("a", "missing"), change)
    remover.join()
    assert removed == [True]
    assert {key: each.value for key, each in file.read().items()} == {"b": b"3"}


def test_failed_update_changes_nothing(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    file.set_all({"a": b"1"})

    def fail(stored: Mapping[str, bytes]) -> dict[str, bytes | None]:
        raise ValueError

    with pytest.raises(ValueError):
        file.update(("a",), fail)
    file.update(("a",), lambda stored: {})
    assert {key: each.value for key, each in file.read().items()} == {"a": b"1"}
