"""Which differences between the databases of two replicas are reported."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from almenara.bus.compare import compare_databases
from almenara.bus.shared import SharedBus
from almenara.config import EventMatch, RetentionRule, StorageSettings
from almenara.history import Filter, History
from almenara.signals import Resource
from support.bus import collect_records, make_event
from support.memory_log import LogView, MemoryLog

pytestmark = pytest.mark.anyio

RULES: Final = [
    RetentionRule(match=EventMatch(type="noise"), age=0.2),
    RetentionRule(match=EventMatch(type="detail"), age=3_600),
]
TYPES: Final = ("noise", "kept", "detail")


@pytest.fixture
async def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two replicas, of which one has applied the rules of retention and the other not yet."""
    log, first, second = MemoryLog(), tmp_path / "a", tmp_path / "b"
    fast = StorageSettings(dir=first, retention_rules=RULES, retention_interval=0.05)
    slow = StorageSettings(dir=second, retention_rules=RULES, retention_interval=3_600)
    async with SharedBus(fast, LogView(log)) as bus, SharedBus(slow, LogView(log)) as other:
        for number in range(9):
            event = make_event(number, type=TYPES[number % 3])
            await bus.publish([event, Resource(kind="pod", name=f"p{number}")], "test")
        while await History(bus).count(Filter(type="noise")):
            await asyncio.sleep(0.02)
        await collect_records(other, 0, 18)
    return first, second


def find_sequences(folder: Path, name: str) -> list[int]:
    with closing(sqlite3.connect(folder / "almenara.db")) as connection:
        rows = connection.execute(
            "SELECT sequence FROM events e JOIN names n ON n.number = e.type WHERE n.text = ?"
            " ORDER BY sequence", (name,),
        )  # fmt: skip
        return [sequence for (sequence,) in rows]


def change(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "almenara.db", isolation_level=None)) as connection:
        connection.execute(statement, values)


async def test_what_rules_of_retention_remove_is_no_difference(folders: tuple[Path, Path]) -> None:
    assert find_sequences(folders[0], "noise") == []
    assert len(find_sequences(folders[1], "noise")) == 3
    assert compare_databases(*folders, RULES) == []
    assert compare_databases(*reversed(folders), RULES) == []


@pytest.mark.parametrize("name", ["kept", "detail"])
@pytest.mark.parametrize("number", [0, 1])
async def test_missing_event_is_the_only_difference(
    folders: tuple[Path, Path], name: str, number: int
) -> None:
    sequence = find_sequences(folders[number], name)[1]
    change(folders[number], "DELETE FROM events WHERE sequence = ?", sequence)
    expected = [f"The signals with sequence {sequence} differ."]
    assert compare_databases(*folders, RULES) == expected


async def test_event_that_differs_is_a_difference(folders: tuple[Path, Path]) -> None:
    sequence = find_sequences(folders[0], "kept")[1]
    change(folders[0], "UPDATE events SET subject = 'other' WHERE sequence = ?", sequence)
    expected = [f"The signals with sequence {sequence} differ."]
    assert compare_databases(*folders, RULES) == expected


async def test_position_to_read_again_from_is_no_difference(folders: tuple[Path, Path]) -> None:
    change(
        folders[0],
        "UPDATE plugin_state SET value = CAST(json_set(CAST(value AS TEXT), '$.resume_at', 3)"
        " AS BLOB) WHERE plugin = 'almenara/log' AND key = 'position'",
    )
    assert compare_databases(*folders, RULES) == []
    change(folders[1], "INSERT INTO plugin_state VALUES ('almenara/log', 'fence/x', X'31')")
    assert compare_databases(*folders, RULES) == ["The stored values differ."]
