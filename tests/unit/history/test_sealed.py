"""Rows, sealed blocks and both together answer every query as a plain list of events does."""

import itertools
import random
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import msgspec
from hypothesis import given, settings, strategies as st

from almenara.bus import Record, retention, sealing
from almenara.bus.block_format import Block, encode_block
from almenara.bus.retention_rules import RetentionRules
from almenara.bus.sealing import Sealer, clear_rows
from almenara.bus.text_tables import TABLES
from almenara.bus.writer import Writer
from almenara.config import EventMatch, RetentionRule, StorageSettings
from almenara.history import Filter, History
from almenara.history.block_cache import BlockCache
from almenara.signals import Event, Severity
from almenara.units import SECOND
from support.log import (
    Log,
    answer,
    check_log,
    check_queries,
    random_event,
    random_filter,
    sleep_not,
    write,
)
from support.old_schema import downgrade_to_6, downgrade_to_7


def seal(writer: Writer, hot_events: int, steps: int = sys.maxsize) -> None:
    for _ in itertools.islice(Sealer(hot_events).seal(writer.connection), steps):
        pass


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 40),
    st.integers(1, 9),
    st.sampled_from((0, 0, 1, 10, 60)),
    st.booleans(),
    st.integers(1, 12),
    st.integers(1, 200),
)
def test_rows_and_blocks_answer_as_a_list(
    seed: int, hot_events: int, block: int, removed: int, has_rule: bool, limit: int, steps: int
) -> None:
    chance = random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("almenara.bus.sealing.BLOCK_EVENTS", block),
        patch("almenara.bus.sealing.CLEARED_EVENTS", 2),
        patch("almenara.bus.text_tables.SWITCHED_AFTER", 20),
        patch("almenara.history.text_finder.COMMON_SHARE", seed % 2 * 8),
        patch("almenara.history.queries.sleep", sleep_not),
    ):
        storage = StorageSettings(dir=Path(folder))
        writer = Writer(Path(folder) / "almenara.db", storage)
        with closing(writer.connection):
            stored: list[Event] = []
            for _ in range(3):
                batch = [random_event(chance, chance.randrange(200)) for _ in range(30)]
                stored += write(writer, batch)
                seal(writer, hot_events)
            records = [Record(place, event) for place, event in enumerate(stored, 1)]
            # Sealing may stop between any two steps.
            seal(writer, 0, steps)
            check_queries(writer.connection, records, random_filter(chance), limit)
            check_log(writer.connection, records)
            while clear_rows(writer.connection):
                pass
            if has_rule:
                records = apply_rule(writer, records)
            records = remove_oldest(writer, records, removed)
            for each in (Filter(), *(random_filter(chance) for _ in range(4))):
                check_queries(writer.connection, records, each, limit)
            check_log(writer.connection, records)


def apply_rule(writer: Writer, records: list[Record]) -> list[Record]:
    """Remove the events of a type."""
    rules = RetentionRules([RetentionRule(match=EventMatch(type="a.x"), age=1)])
    now = writer.clock.advance() + 10 * SECOND
    writer.connection.execute(
        "INSERT OR REPLACE INTO clock VALUES (?, ?)", (now - 5 * SECOND, writer.last_sequence)
    )
    removed = rules.remove_step(writer.connection, now, 7)
    while rules.is_behind:
        removed += rules.remove_step(writer.connection, now, 7)
    remaining = [record for record in records if record.signal.type != "a.x"]  # type: ignore[union-attr]
    assert removed == len(records) - len(remaining)
    writer.names.reload()
    return remaining


def remove_oldest(writer: Writer, records: list[Record], count: int) -> list[Record]:
    """Remove the oldest events, in whole blocks first."""
    settings = StorageSettings(retention_size=1, retention_batch=max(count, 1))
    removed = 0
    while removed < count and removed < len(records):
        removed += retention.remove_step(writer.connection, settings, writer.clock.advance())
    writer.names.reload()
    return records[removed:]


def test_migrate_indexes_the_blocks_of_schema_6(tmp_path: Path) -> None:
    chance = random.Random(6)
    path = tmp_path / "almenara.db"
    with patch("almenara.bus.sealing.BLOCK_EVENTS", 20):
        writer = Writer(path, StorageSettings(dir=tmp_path))
        with closing(writer.connection):
            events = [random_event(chance, number) for number in range(90)]
            records = list(itertools.starmap(Record, enumerate(write(writer, events), 1)))
            seal(writer, 10)
    downgrade_to_6(path)
    writer = Writer(path, StorageSettings(dir=tmp_path))
    with closing(writer.connection), patch("almenara.history.queries.sleep", sleep_not):
        for chosen in (Filter(text="done"), Filter(correlation="US-1"), Filter(text="do* cafe")):
            check_queries(writer.connection, records, chosen, 7)


def test_migrate_indexes_the_letters_of_schema_7(tmp_path: Path) -> None:
    chance = random.Random(7)
    path = tmp_path / "almenara.db"
    with patch("almenara.bus.sealing.BLOCK_EVENTS", 20):
        writer = Writer(path, StorageSettings(dir=tmp_path))
        with closing(writer.connection):
            events = [random_event(chance, number) for number in range(90)]
            records = list(itertools.starmap(Record, enumerate(write(writer, events), 1)))
            seal(writer, 50)
    downgrade_to_7(path)
    writer = Writer(path, StorageSettings(dir=tmp_path))
    with closing(writer.connection), patch("almenara.history.queries.sleep", sleep_not):
        for text in ("已满", "ガ", "เต็ม", "cafe", "空"):
            check_queries(writer.connection, records, Filter(text=text), 7)
        # Deleting a row takes exactly the words out of the index that are in it.
        records = remove_oldest(writer, records, 60)
        check_log(writer.connection, records)
        check_queries(writer.connection, records, Filter(text="已满"), 7)


def test_counts_of_words_and_severe_events_need_no_content_of_blocks(tmp_path: Path) -> None:
    chance = random.Random(8)
    writer = Writer(tmp_path / "almenara.db", StorageSettings(dir=tmp_path))
    with closing(writer.connection), patch("almenara.bus.sealing.BLOCK_EVENTS", 100):
        events = [
            msgspec.structs.replace(
                random_event(chance, number),
                severity=Severity.FATAL if number % 50 == 0 else Severity.INFO,
            )
            for number in range(300)
        ]
        records = list(itertools.starmap(Record, enumerate(write(writer, events), 1)))
        seal(writer, 0)
        writer.connection.execute("DELETE FROM block_contents")
        history = History(Log(writer.connection))
        for text in ("done", "kelvin", "cafe", "absent"):
            chosen = Filter(text=text)
            matches = [record for record in records if chosen.matches(record.signal)]  # type: ignore[arg-type]
            assert answer(history.count(chosen)) == len(matches)
        severe = answer(history.events(Filter(severity=Severity.ERROR)))
        assert [record.sequence for record in severe] == [251, 201, 151, 101, 51, 1]


def test_index_of_rows_is_emptied_of_what_a_burst_left(tmp_path: Path) -> None:
    chance = random.Random(10)
    writer = Writer(tmp_path / "almenara.db", StorageSettings(dir=tmp_path))
    with (
        closing(writer.connection) as connection,
        patch("almenara.bus.sealing.BLOCK_EVENTS", 20),
        patch("almenara.bus.text_tables.SWITCHED_AFTER", 50),
        patch("almenara.bus.text_tables.MOVED_ROWS", 7),
        patch("almenara.history.queries.sleep", sleep_not),
    ):
        events = [random_event(chance, number) for number in range(200)]
        records = list(itertools.starmap(Record, enumerate(write(writer, events), 1)))
        for place, _ in enumerate(Sealer(30).seal(connection)):
            if place % 9 == 0:
                check_queries(connection, records, Filter(text="done"), 50)
        matches = "SELECT (SELECT count(*) FROM {0} WHERE {0} MATCH 'done')".format
        indexed = [connection.execute(matches(name)).fetchone()[0] for name in TABLES]
        rows = [each for each in records[-49:] if Filter(text="done").matches(each.signal)]  # type: ignore[arg-type]
        assert sum(indexed) <= len(rows)
        # Rows that were moved are taken out of the index where they are now.
        records = remove_oldest(writer, records, 180)
        check_queries(connection, records, Filter(text="done"), 7)


def test_sealing_pauses_less_while_more_events_wait(tmp_path: Path) -> None:
    chance = random.Random(11)
    writer = Writer(tmp_path / "almenara.db", StorageSettings(dir=tmp_path))
    with (
        closing(writer.connection),
        patch("almenara.bus.sealing.BLOCK_EVENTS", 20),
        patch("almenara.bus.sealing.HALVED_AT", 40),
    ):
        write(writer, [random_event(chance, number) for number in range(200)])
        sealer = Sealer(60)
        pauses = [sealer.pause for _ in sealer.seal(writer.connection)]
    assert pauses == sorted(pauses)
    # 120 events wait at first, beside 60 rows and a block, and 0 at last.
    assert pauses[0] == sealing.PAUSE / 4
    assert pauses[-1] == sealing.PAUSE


def test_cache_returns_what_a_rule_left_of_a_block(tmp_path: Path) -> None:
    chance = random.Random(9)
    writer = Writer(tmp_path / "almenara.db", StorageSettings(dir=tmp_path))
    with closing(writer.connection), patch("almenara.bus.sealing.BLOCK_EVENTS", 50):
        events = [random_event(chance, number) for number in range(100)]
        records = list(itertools.starmap(Record, enumerate(write(writer, events), 1)))
        seal(writer, 0)
        history = History(Log(writer.connection))
        for chosen in (Filter(), Filter(text="done"), Filter(severity=Severity.ERROR)):
            for _ in range(2):
                page = answer(history.events(chosen, limit=1_000))
                assert page == select(records, chosen)
        records = apply_rule(writer, records)
        for chosen in (Filter(), Filter(text="done"), Filter(severity=Severity.ERROR)):
            assert answer(history.events(chosen, limit=1_000)) == select(records, chosen)


def select(records: list[Record], chosen: Filter) -> list[Record]:
    """Return the events that match a filter, newest first."""
    return [each for each in reversed(records) if chosen.matches(each.signal)]  # type: ignore[arg-type]


def test_cache_has_a_bound() -> None:
    entry = ("1", "s", "o", "t", "", 0, 9, None, None, None, None, f'"{"x" * 5_000}"')
    content = encode_block([(number, *entry) for number in range(1, 9)])
    cache = BlockCache(max_bytes=60_000)
    first = cache.get("first", lambda: Block(content))
    assert cache.get("first", lambda: Block(content)) is first
    second = cache.get("second", lambda: Block(content))
    # With their columns, both are beyond the bound.
    for block in (first, second):
        block.entries(range(8))
    assert cache.get("second", lambda: Block(content)) is second
    assert cache.get("second", lambda: Block(content)) is second
    assert cache.get("first", lambda: Block(content)) is not first
    assert cache.get("none", lambda: None) is None
