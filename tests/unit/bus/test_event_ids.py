"""The ids of stored events are known exactly, as in two sets that alternate."""

import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from almenara.bus.event_ids import EventIds, read_ids
from almenara.bus.id_filter import IdFilter
from almenara.bus.schema import connect, migrate
from almenara.bus.work import Submission
from almenara.bus.writer import Writer
from almenara.config import StorageSettings
from support.bus import make_event
from support.log import write
from support.old_schema import downgrade_to_9


class Model:
    """Two sets of ids: once one is full, the other is emptied and takes over."""

    def __init__(self, window: int) -> None:
        self.window, self.current = window, 0
        self.sets: list[set[str]] = [set(), set()]

    def accept(self, batch: list[str]) -> list[str]:
        """Return the ids of a batch that are new, and add them."""
        known = self.sets[0] | self.sets[1]
        new = [key for key in dict.fromkeys(batch) if key not in known]
        self.sets[self.current].update(new)
        if len(self.sets[self.current]) >= self.window:
            self.current = 1 - self.current
            self.sets[self.current] = set()
        return new


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 20), st.integers(1, 120))
def test_writer_recognizes_what_two_alternating_sets_have(
    seed: int, window: int, part: int, different: int
) -> None:
    chance = random.Random(seed)
    model = Model(window)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("almenara.bus.event_ids.PART_IDS", part),
        patch("almenara.bus.event_ids.PARTS", 1_000),
    ):
        path = Path(folder) / "almenara.db"
        storage = StorageSettings(dir=path.parent, deduplication_window=window)
        writer = Writer(path, storage)
        for _ in range(25):
            batch = [str(chance.randrange(different)) for _ in range(chance.randrange(1, 15))]
            events = [make_event(0, id=each) for each in batch]
            fate = chance.random()
            if fate < 0.2:
                fail_to_write(writer, events)
            elif fate < 0.4:
                # As after a kill: only what was committed is there.
                writer.connection.close()
                if fate < 0.25:
                    downgrade_to_9(path)
                writer = Writer(path, storage)
            assert [event.id for event in write(writer, events)] == model.accept(batch)
        assert len(read_ids(writer.connection)) == len(model.sets[0]) + len(model.sets[1])
        writer.connection.close()


def fail_to_write(writer: Writer, events: list[object]) -> None:
    """Roll a transaction back after the ids of events were added."""
    with (
        patch.object(writer, "_note_time", side_effect=sqlite3.OperationalError("disk full")),
        patch.object(writer.known_resources, "store", side_effect=sqlite3.OperationalError),
        pytest.raises(sqlite3.OperationalError),
    ):
        writer.write([Submission(events, "x", lambda refused: None)])  # type: ignore[arg-type]


def test_parts_of_a_full_window_are_searched_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "almenara.db"
    with closing(connect(path, writable=True)) as connection:
        migrate(connection, path)
        known = EventIds(connection, 100_000)
        chance = random.Random(1)
        ids = [chance.randbytes(16) for _ in range(90_000)]
        for start in range(0, len(ids), 4_000):
            known.add(ids[start : start + 4_000])
        connection.execute("UPDATE position SET seen_count = ?", (known.count,))
        absent = [chance.randbytes(16) for _ in range(2_000)]
        for each in (known, EventIds(connection, 100_000)):
            assert each.find(ids[::9]) == set(ids[::9])
            assert each.find(absent) == set()
        (rows,) = connection.execute("SELECT count(*) FROM event_ids_0").fetchone()
        assert rows == 4 * 512


def test_filter_knows_all_of_its_ids_and_few_others() -> None:
    chance = random.Random(1)
    ids = [chance.randbytes(16) for _ in range(20_000)]
    known = IdFilter(20_000)
    known.add(b"".join(ids))
    assert known.select(ids) == ids
    assert len(known.select([chance.randbytes(16) for _ in range(20_000)])) < 200


def test_cut_off_id_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "almenara.db"
    with closing(connect(path, writable=True)) as connection:
        migrate(connection, path)
        connection.execute("INSERT INTO event_ids_1 VALUES (3, x'0011')")
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            EventIds(connection, 100)
