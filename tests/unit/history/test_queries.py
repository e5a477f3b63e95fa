import random
from pathlib import Path

import msgspec
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.history.queries import PREVIEW_CHARACTERS
from almenara.signals import Event, Severity, now

TYPES = ("planning.story.created", "planning.plan.approved", "vllm_token", "x")
SUBJECTS = ("planning.story.created", "planning.plan.approved", "deadletter")
WORDS = ("line\nnext word", "café au lait", "hello_world us-101", "tab\tstop")
QUERIES = (
    {},
    {"type": "planning.*.created"},
    {"type": "planning.>"},
    {"type": "vllm_token"},
    {"origin": "nats/>"},
    {"origin": "nats/**"},
    {"origin": "nats/S1/**"},
    {"origin": "nats/S1", "severity": "error"},
    {"severity": "warn"},
    {"severity": "fatal"},
    {"severity": "error", "since": "10s"},
    {"severity": "fatal", "since": "10s"},
    {"text": "cafe"},
    {"text": "next wor*"},
    {"text": '"us-101"', "correlation": "US-1"},
    {"text": '"hello world"', "type": "x"},
    {"text": "absent"},
    {"subject": "planning.*.created"},
    {"subject": "planning.>", "type": "vllm_token"},
    {"subject": "*.story.>"},
    {"subject": "planning.story.>"},
    {"subject": "dead*"},
    {"subject": "planning.story.**"},
    {"subject": "*.story.created.**"},
    {"subject": "planning*"},
    {"subject": "planning.[s]tory.*"},
    {"since": "10s"},
    {"since": "10s", "until": "5s", "source": "src/*"},
    {"correlation": "US-2", "severity": "fatal"},
    {"type": "none.such"},
)


def fleet(count: int) -> list[Event]:
    chance, base = random.Random(7), now()
    return [
        Event(
            id=str(number),
            source=f"src/{number % 3}",
            origin=f"nats/S{number % 4}",
            type=chance.choice(TYPES),
            subject=chance.choice(SUBJECTS),
            time=base - number * 1000 * chance.randint(1, 9),
            severity=chance.choice(list(Severity)),
            correlation=chance.choice((None, "US-1", "US-2")),
            data={"text": chance.choice(WORDS), "number": number},
        )
        for number in range(count)
    ]


@pytest.mark.anyio
async def test_history_and_live_filters_select_the_same_events(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(fleet(4000), "x")
        history = History(bus)
        everything = await history.events(Filter(), limit=5000)
        for query in QUERIES:
            chosen = Filter.from_query(query)
            assert Filter.from_query(chosen.to_query()) == chosen
            expected = [each.sequence for each in everything if chosen.matches(each.signal)]  # type: ignore[arg-type]
            records = await history.events(chosen, limit=5000)
            assert [each.sequence for each in records] == expected, query
            assert await history.count(chosen) == len(expected), query
            assert await history.count(chosen, limit=3) == min(len(expected), 3)
            buckets = await history.buckets(
                chosen, since=now() - 10**9, until=now() + 10**9, width=1_000_000
            )
            assert sum(count for _, count, _ in buckets) == len(expected), query
            assert all(start % 1_000_000 == 0 for start, _, _ in buckets)
            later = await history.events(chosen, after=500, limit=50)
            assert [each.sequence for each in later] == sorted(
                each for each in expected if each > 500
            )[:50][::-1]
            between = await history.events(chosen, after=500, before=2000, limit=50)
            assert [each.sequence for each in between] == [
                each for each in expected if 500 < each < 2000
            ][:50]


@pytest.mark.anyio
async def test_history_pages_reach_all_events_in_both_directions(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(fleet(1000), "x")
        history, chosen = History(bus), Filter(type="planning.>")
        expected = [each.sequence for each in await history.events(chosen, limit=1000)]
        down: list[int] = []
        while page := await history.events(chosen, before=down[-1] if down else None, limit=37):
            down += [each.sequence for each in page]
        up: list[int] = []
        while page := await history.events(chosen, after=up[-1] if up else 0, limit=37):
            up += [each.sequence for each in reversed(page)]
        assert down == expected
        assert up == expected[::-1]


WRITTEN = (
    "오류 발생", "ошибка й ё ї", "データ 接続エラー", "tiếng Việt lỗi", "σφάλμα ώρα", "خطأ أحمد",
    "हिन्दी में त्रुटि", "เพื่อ ที่", "שָׁלוֹם", "Zoë naïve", "ﬁn ǅ straße",
)  # fmt: skip


@pytest.mark.anyio
async def test_history_finds_words_of_any_language(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        events = [
            Event(id=str(number), source="x", type="text", time=number, data={"text": text})
            for number, text in enumerate(WRITTEN)
        ]
        await bus.publish(events, "x")
        for event in events:
            text = event.data["text"]
            for search in (text, f'"{text}"', *text.split(), text[:2] + "*"):
                chosen = Filter.from_query({"text": search})
                records = [each.signal.id for each in await History(bus).events(chosen, limit=99)]
                assert event.id in records, search
                assert chosen.matches(event), search


@pytest.mark.anyio
async def test_history_lists_each_name_once(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        assert await History(bus).types() == []
        await bus.publish(fleet(500), "x")
        assert await History(bus).types() == sorted(TYPES)
        assert await History(bus).origins() == [f"nats/S{each}" for each in range(4)]


@pytest.mark.anyio
async def test_history_bounds_a_result_by_bytes_and_previews_long_payloads(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        events = [
            Event(id=str(number), source="x", type="t", time=number, data={"text": "é" * length})
            for number, length in enumerate((50_000, 10, 50_000, 50_000))
        ]
        await bus.publish(events, "x")
        history = History(bus)
        ids: list[str] = []
        before: int | None = None
        while page := await history.events(Filter(type="t"), before=before, max_bytes=60_000):
            assert len(page) <= 2
            ids += [record.signal.id for record in page]  # type: ignore[union-attr]
            before = page[-1].sequence
        assert ids == ["3", "2", "1", "0"]
        preview = await history.events(Filter(), max_bytes=1, is_preview=True)
        payloads = [msgspec.json.decode(record.signal.data) for record in preview]  # type: ignore[union-attr]
        assert [type(payload) for payload in payloads] == [str, str, dict, str]
        assert payloads[0] == ('{"text":"' + "é" * 50_000)[:PREVIEW_CHARACTERS]
