"""Random events, and history over the connection of a writer, without threads or an event loop."""

import random
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from almenara.bus import Record
from almenara.bus.block_format import Block
from almenara.bus.codec import RowDecoder
from almenara.bus.replay import read_after
from almenara.bus.work import Submission
from almenara.bus.writer import Writer
from almenara.history import Filter, History
from almenara.scope import FULL_SCOPE, Grant, build_scope
from almenara.signals import Event, Severity
from almenara.units import DAY, SECOND
from support.bus import make_event

T = TypeVar("T")
TEXTS = (
    "us-101 done", "us-1011", "Done\tnext line\n", "café au lait", "cafe", "naïve Zoë",
    "오류 발생", "データ 接続エラー", "under_score", "12", "",
    "K\u212a kelvin", "back\\slash", "done", "磁盘已满 done", "ガス漏れの警告", "ดิสก์เต็มแล้ว",
)  # fmt: skip
SEARCHES = (
    "done", "do*", "us-101", '"us 101"', '"us-101 done"', "cafe", "CAFÉ", "next line", "오류",
    "接続*", "已满", "漏れの*", "ガ", "カ", "เต็ม", "盘 已",
    "score", "k", "kelvin done", "absent", "slash", "t", "s.b", "1*", "12",
)  # fmt: skip
SCOPES = (
    FULL_SCOPE,
    build_scope([Grant(sources=("nats",))], access_log=False),
    build_scope([Grant(types=("a.*",)), Grant(namespaces=("shop",))], access_log=False),
    build_scope([Grant(labels=(("app", "web"),))], access_log=True, guarded=("k8s",)),
)


class Log:
    """Runs queries directly on the connection of a writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.decoder = connection, RowDecoder()

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        return query(self.connection)


def answer(query: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as stopped:
        query.send(None)
    result: T = stopped.value.value
    return result


async def sleep_not(seconds: float) -> None:
    """Takes the place of the pace at which scoped queries are answered."""


def write(writer: Writer, batch: list[Event]) -> list[Event]:
    """Write a batch and return the events that were stored."""
    records = writer.write([Submission(batch, "x", lambda refused: None)])
    return [record.signal for record in records]  # type: ignore[misc]


def random_event(chance: random.Random, number: int) -> Event:
    """Return an event with an id and random fields."""
    pick = chance.choice
    return make_event(
        number,
        time=chance.randrange(40 * SECOND),
        source=pick(("/fleet/1", "/fleet/2")),
        origin=pick(("nats/A", "nats/B", "k8s")),
        type=pick(("a.x", "a.y", "b")),
        subject=pick(("", "s.a", "s.b", "s.b.done")),
        severity=pick((Severity.INFO, Severity.WARN, Severity.ERROR)),
        correlation=pick((None, "US-1", "us-101")),
        attributes=pick(({}, {"namespace": "shop"}, {"labels": "app=web,b=c"})),
        raw=pick((None, b"\xff\x00")),
        data=pick((pick(TEXTS), pick((1, 12, 2)), {pick(TEXTS): pick(TEXTS)})),
    )


def random_filter(chance: random.Random) -> Filter:
    """Return a filter with one to three parts."""
    parts = {
        "source": ("/fleet/*", "/fleet/2"),
        "origin": ("nats/*", "k8s", "none"),
        "type": ("a.*", "b"),
        "subject": ("s.*", "s.b"),
        "severity": (Severity.WARN, Severity.ERROR),
        "text": SEARCHES,
        "correlation": ("US-1", "us-101", "none"),
        "since": (5 * SECOND, 15 * SECOND + 7),
        "until": (25 * SECOND, 33 * SECOND + 1),
    }
    names = chance.sample(sorted(parts), chance.randint(1, 3))
    return Filter(**{name: chance.choice(parts[name]) for name in names})  # type: ignore[arg-type,attr-defined]


def check_queries(
    connection: sqlite3.Connection, records: list[Record], chosen: Filter, limit: int
) -> None:
    """Check that history answers as the list of all stored events does, in several scopes."""
    for scope in SCOPES:
        history = History(Log(connection)).within(scope)
        matches = [
            record for record in records
            if scope.permits(record.signal) and chosen.matches(record.signal)  # type: ignore[arg-type]
        ]  # fmt: skip
        sequences = [record.sequence for record in matches]
        check_pages(history, matches, chosen, limit)
        middle = len(records) // 2
        between = [each for each in sequences if middle < each < middle + 9]
        page = answer(history.events(chosen, after=middle, before=middle + 9, limit=100))
        assert [record.sequence for record in page] == between[::-1]
        assert answer(history.count(chosen)) == len(matches)
        assert answer(history.count(chosen, limit=limit)) == min(limit, len(matches))
        buckets = answer(history.buckets(chosen, since=0, until=DAY, width=3 * SECOND))
        expected: dict[int, list[bool]] = {}
        for record in matches:
            event = record.signal
            assert isinstance(event, Event)
            start = event.time // (3 * SECOND) * 3 * SECOND
            expected.setdefault(start, []).append(event.severity >= Severity.ERROR)
        assert buckets == [
            (start, len(each), sum(each)) for start, each in sorted(expected.items())
        ]
        for record in matches[:3] + matches[-3:]:
            single = answer(history.event(record.sequence))
            assert single is not None
            assert plain_fields(single) == plain_fields(record)


def check_pages(history: History, matches: list[Record], chosen: Filter, limit: int) -> None:
    sequences = [record.sequence for record in matches]
    down: list[Record] = []
    before = None
    while page := answer(history.events(chosen, before=before, limit=limit)):
        assert len(page) == min(limit, len(matches) - len(down))
        down += page
        before = page[-1].sequence
    assert list(map(plain_fields, down)) == list(map(plain_fields, reversed(matches)))
    up: list[int] = []
    while page := answer(history.events(chosen, after=up[-1] if up else 0, limit=limit)):
        up += [record.sequence for record in reversed(page)]
    assert up == sequences


def plain_fields(record: Record) -> dict[str, Any]:
    """Return what two records with the same event have in common."""
    event = record.signal
    assert isinstance(event, Event)
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    fields.pop("deduplication_key")
    return {**fields, "data": bytes(event.data), "sequence": record.sequence}


def check_log(connection: sqlite3.Connection, records: list[Record]) -> None:
    """Check the log, its names and its counts against the list of all stored events."""
    history, log = History(Log(connection)), Log(connection)
    for scope in SCOPES:
        visible = sum(scope.permits(record.signal) for record in records)
        assert answer(history.within(scope).count_stored()) == visible
    for name, listed in (("type", history.types()), ("origin", history.origins())):
        assert answer(listed) == sorted({getattr(record.signal, name) for record in records})
    replayed: list[Record] = []
    cursor, reached = -1, 0
    while reached != cursor:
        cursor = reached
        batch, reached = read_after(connection, cursor, 7, log.decoder)
        replayed += batch
    assert list(map(plain_fields, replayed)) == list(map(plain_fields, records))
    assert log.decoder.skipped == 0
    rows, sealed = connection.execute(
        "SELECT (SELECT count(*) FROM events WHERE NOT EXISTS (SELECT 1 FROM sealed_rows"
        " WHERE sequence BETWEEN first_sequence AND last_sequence)),"
        " (SELECT coalesce(sum(events), 0) FROM blocks)"
    ).fetchone()
    position = connection.execute("SELECT events, sealed_events FROM position").fetchone()
    assert position == (rows + sealed, sealed)
    assert rows + sealed == len(records)
    names = connection.execute("SELECT text FROM names").fetchall()
    assert {text for (text,) in names} == {
        text for record in records for text in names_of(record) if text
    }
    uses = connection.execute("SELECT coalesce(sum(uses), 0) FROM name_pairs").fetchone()
    assert uses == (len(records),)


def read_sequences(connection: sqlite3.Connection) -> list[int]:
    """Return the sequences of all visible events, read with little of the product."""
    (through,) = connection.execute("SELECT sealed_through FROM position").fetchone()
    rows = connection.execute("SELECT sequence FROM events WHERE sequence > ?", (through,))
    sequences = [sequence for (sequence,) in rows]
    for (content,) in connection.execute("SELECT content FROM block_contents"):
        sequences += Block(content).numbers("sequence")
    return sorted(sequences)


def names_of(record: Record) -> tuple[str, ...]:
    event = record.signal
    assert isinstance(event, Event)
    return event.source, event.origin, event.type, event.attributes.get("namespace", "")
