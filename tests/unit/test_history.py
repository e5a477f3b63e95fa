import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
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
async def test_every_filter_finds_in_history_what_it_lets_through_live(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(fleet(4000), "x")
        history = History(bus)
        everything = await history.events(Filter(), limit=5000)
        for query in QUERIES:
            wanted = Filter.from_query(query)
            assert Filter.from_query(wanted.to_query()) == wanted
            right = [it.sequence for it in everything if wanted.matches(it.signal)]  # type: ignore[arg-type]
            found = await history.events(wanted, limit=5000)
            assert [it.sequence for it in found] == right, query
            assert await history.count(wanted) == len(right), query
            assert await history.count(wanted, limit=3) == min(len(right), 3)
            buckets = await history.buckets(
                wanted, since=now() - 10**9, until=now() + 10**9, width=1_000_000
            )
            assert sum(count for _, count, _ in buckets) == len(right), query
            assert all(start % 1_000_000 == 0 for start, _, _ in buckets)
            later = await history.events(wanted, after=500, limit=50)
            assert [it.sequence for it in later] == sorted(it for it in right if it > 500)[:50][
                ::-1
            ]
            between = await history.events(wanted, after=500, before=2000, limit=50)
            assert [it.sequence for it in between] == [it for it in right if 500 < it < 2000][:50]


@pytest.mark.anyio
async def test_pages_walk_through_all_events_both_ways(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(fleet(1000), "x")
        history, wanted = History(bus), Filter(type="planning.>")
        right = [it.sequence for it in await history.events(wanted, limit=1000)]
        down: list[int] = []
        while page := await history.events(wanted, before=down[-1] if down else None, limit=37):
            down += [it.sequence for it in page]
        up: list[int] = []
        while page := await history.events(wanted, after=up[-1] if up else 0, limit=37):
            up += [it.sequence for it in reversed(page)]
        assert down == right
        assert up == right[::-1]


WRITTEN = (
    "오류 발생", "ошибка й ё ї", "データ 接続エラー", "tiếng Việt lỗi", "σφάλμα ώρα", "خطأ أحمد",
    "हिन्दी में त्रुटि", "เพื่อ ที่", "שָׁלוֹם", "Zoë naïve", "ﬁn ǅ straße",
)  # fmt: skip


@pytest.mark.anyio
async def test_words_of_any_language_are_found_as_they_are_written(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        said = [
            Event(id=str(number), source="x", type="said", time=number, data={"text": text})
            for number, text in enumerate(WRITTEN)
        ]
        await bus.publish(said, "x")
        for event in said:
            text = event.data["text"]
            for search in (text, f'"{text}"', *text.split(), text[:2] + "*"):
                wanted = Filter.from_query({"text": search})
                found = [it.signal.id for it in await History(bus).events(wanted, limit=99)]
                assert event.id in found, search
                assert wanted.matches(event), search


@pytest.mark.anyio
async def test_names_are_listed_once(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        assert await History(bus).types() == []
        await bus.publish(fleet(500), "x")
        assert await History(bus).types() == sorted(TYPES)
        assert await History(bus).origins() == [f"nats/S{it}" for it in range(4)]


def test_what_is_longer_ago_than_the_epoch_is_all_there_is() -> None:
    wanted = Filter.from_query({"since": "999999999w"})
    assert wanted.since == 0
    assert wanted.to_query() == {"since": "1970-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"severity": "bad"}, "DEBUG, INFO"),
        ({"since": "yesterday"}, "15m"),
        ({"text": "--- !"}, "no letter"),
        ({"type": "x" * 600}, "600 characters"),
    ],
)
def test_a_filter_that_cannot_be_read_says_what_would_be_right(
    query: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Filter.from_query(query)


@given(st.dictionaries(st.sampled_from(Filter.__struct_fields__), st.text(max_size=30)))
def test_whatever_is_typed_is_a_filter_or_a_readable_refusal(query: dict[str, str]) -> None:
    try:
        wanted = Filter.from_query(query)
    except ValueError as error:
        assert str(error)
    else:
        assert Filter.from_query(wanted.to_query()) == wanted
        wanted.matches(Event(id="1", source="s", type="t", time=0, data={"a": 1}))
