import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from almenara.bus import retention
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.retention_rules import RetentionRules
from almenara.bus.work import Submission
from almenara.bus.writer import Writer
from almenara.config import EventMatch, RetentionRule, StorageSettings
from almenara.history import Filter, History
from almenara.signals import Event, Sample, Severity
from almenara.units import SECOND
from support.bus import collect_records, make_event

pytestmark = pytest.mark.anyio


async def test_retention_removes_oldest_events_and_their_text_index_by_size(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(
        dir=tmp_path, retention_size=1_500_000, retention_interval=0.05, retention_batch=100
    )
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        for start in range(0, 5000, 250):
            await bus.publish(
                [
                    make_event(each, data={"word": f"w{each}", "pad": "x" * 500})
                    for each in range(start, start + 250)
                ],
                "x",
            )
        async with asyncio.timeout(20):
            while (await bus.read(retention.used_bytes)) > settings.retention_size:
                await asyncio.sleep(0.05)
        remaining = await history.events(Filter(), limit=10_000)
        assert 0 < len(remaining) < 5000
        assert await history.count_stored() == len(remaining)
        assert [each.sequence for each in remaining] == list(range(5000, 5000 - len(remaining), -1))
        assert await history.count(Filter(text="w0")) == 0
        assert await history.count(Filter(text="w4999")) == 1
        assert [each.sequence for each in await collect_records(bus, 0, len(remaining))][-1] == 5000


async def test_retention_removes_signals_older_than_retention_age(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, retention_age=0.5, retention_interval=0.05)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1), Sample(kind="k", name="n", metric="m", value=1)], "x")
        async with asyncio.timeout(10):
            while await History(bus).count_stored():
                await asyncio.sleep(0.05)
        await bus.publish([make_event(1)], "x")
        assert await History(bus).count_stored() == 0
        await bus.publish([make_event(2)], "x")
        assert await History(bus).count_stored() == 1


def noisy_and_rare(start: int) -> list[Event]:
    return [
        make_event(
            number,
            type="noise.a" if number % 10 else "rare",
            origin=f"nats/S{number % 2}",
            severity=Severity.ERROR if number % 100 == 1 else Severity.INFO,
        )
        for number in range(start, start + 500)
    ]


async def test_retention_rule_removes_only_what_it_matches(tmp_path: Path) -> None:
    rules = [
        RetentionRule(
            match=EventMatch(type="noise.*", origin="nats/S1", severity_below="ERROR"), age=0.2
        )
    ]
    settings = StorageSettings(
        dir=tmp_path, retention_rules=rules, retention_interval=0.05, retention_batch=40
    )
    stored = noisy_and_rare(0) + noisy_and_rare(500)
    expected = {
        event.id for event in stored
        if event.type == "rare" or event.origin == "nats/S0" or event.severity >= Severity.ERROR
    }  # fmt: skip
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        await bus.publish(stored[:500], "nats")
        await bus.publish(stored[500:], "nats")
        async with asyncio.timeout(20):
            while await history.count_stored() > len(expected):
                await asyncio.sleep(0.02)
        records = await history.events(Filter(), limit=2_000)
        assert {record.signal.id for record in records} == expected  # type: ignore[union-attr]
        assert await history.count(Filter(type="noise.a")) == sum(
            record.signal.type == "noise.a"
            for record in records  # type: ignore[union-attr]
        )
        searched = await history.events(Filter(text="n*"), limit=2_000)
        assert [each.sequence for each in searched] == [each.sequence for each in records]
    async with EmbeddedBus(settings) as bus:
        replayed = await collect_records(bus, 0, len(expected))
        assert [each.sequence for each in replayed] == [each.sequence for each in reversed(records)]


async def test_retention_rule_applies_to_names_that_come_later(tmp_path: Path) -> None:
    rules = RetentionRules([RetentionRule(match=EventMatch(type="noise.*"), age=1)])
    settings = StorageSettings(dir=tmp_path)
    writer = Writer(tmp_path / "almenara.db", settings)
    with closing(writer.connection) as connection:
        for kind in ("noise.a", "rare", "noise.b"):
            batch = [make_event(number, id=f"{kind}{number}", type=kind) for number in range(30)]
            writer.write([Submission(batch, "x", lambda refused: None)])
            later = writer.clock.advance() + 10 * SECOND
            connection.execute(
                "INSERT OR REPLACE INTO clock VALUES (?, ?)",
                (later - 5 * SECOND, writer.last_sequence),
            )
            removed = []
            while not removed or rules.is_behind:
                removed.append(rules.remove_step(connection, later, 20))
            assert removed == ([0] if kind == "rare" else [20, 10, 0])
        assert connection.execute("SELECT events FROM position").fetchone() == (30,)
        assert (
            connection.execute("SELECT text FROM names WHERE text LIKE 'noise%'").fetchall() == []
        )
