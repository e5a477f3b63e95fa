"""The text that is searched: JSON with its escapes decoded, the same in history and live."""

import json
import sqlite3
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.text_index import (
    MAX_TEXT,
    SEARCHED_DATA,
    count_words,
    searched_text,
    split_words,
)
from almenara.config import StorageSettings
from almenara.history import Filter, History
from support.bus import make_event

ESCAPED = {
    "windows": (r'"C:\\temp\\new.log"', ["temp", "new", "log"]),
    "lines": (r'"first\nsecond\tthird\rfourth"', ["first", "second", "third", "fourth"]),
    "unicode": (r'"caf\u00e9 \u043e\u0448\u0438\u0431\u043a\u0430"', ["café", "ошибка"]),
    "surrogates": (r'"\ud83d\ude00smile \ud800half"', ["smile", "half"]),
    "quotes": (r'{"say": "\"quoted\" \/path\/to"}', ["quoted", "path", "say"]),
    "nothing": (r'"\"', []),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ESCAPED)
async def test_text_search_finds_words_behind_escapes(tmp_path: Path, name: str) -> None:
    data, words = ESCAPED[name]
    if name in ("surrogates", "nothing"):
        # Not valid JSON for the log: only the function itself meets it.
        assert [word for word in words if word not in split_words(searched_text(data))] == []
        return
    event = make_event(1, data=msgspec.Raw(data.encode()))
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([event], "x")
        (record,) = await History(bus).events(Filter())
        assert bytes(record.signal.data).decode() == data  # type: ignore[union-attr]
        for word in words:
            assert await History(bus).count(Filter(text=word)) == 1, word
            assert Filter(text=word).matches(event), word


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "present", "absent"),
    [
        ("磁盘已满。请清理", ["磁盘", "已满", "盘已", "请清理", "已*"], ["满已", "清空"]),
        ("ディスクの空き容量がありません", ["空き容量", "ディスク", "容*"], ["カ", "容空"]),
        ("ดิสก์เต็มแล้ว", ["เต็ม", "แล้ว"], ["มเต"]),
        ("node-7的磁盘", ["node", "7", "磁盘"], ["node7"]),
    ],
)
async def test_text_search_finds_words_of_languages_without_spaces(
    tmp_path: Path, text: str, present: list[str], absent: list[str]
) -> None:
    event = make_event(1, data={"text": text}, subject=text)
    escaped = make_event(2, data=msgspec.Raw(json.dumps({"text": text}).encode()))
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([event, escaped], "x")
        for word, count in [*((word, 2) for word in present), *((word, 0) for word in absent)]:
            assert await History(bus).count(Filter(text=word)) == count, word
            assert Filter(text=word).matches(event) is bool(count), word
            assert Filter(text=word).matches(escaped) is bool(count), word


@given(st.text(max_size=80))
def test_searched_text_has_the_words_of_every_string(text: str) -> None:
    for ascii_only in (True, False):
        encoded = json.dumps({"key": text}, ensure_ascii=ascii_only)
        clean = text.encode("utf-8", "ignore").decode()
        searched = split_words(searched_text(encoded))
        assert searched[0] == "key"
        assert " ".join(split_words(clean)) == " ".join(searched[1:])


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet='ab"\\u0041/ntx{} é漢ガ', max_size=60))
def test_searched_text_in_sql_is_the_same(text: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.create_function("searched_text", 1, searched_text, deterministic=True)
    # The second is cut somewhere within the text, in the middle of an escape too.
    for data in (text, "x" * (MAX_TEXT - 7) + text):
        statement = f"SELECT {SEARCHED_DATA} FROM (SELECT ? AS data)"
        (result,) = connection.execute(statement, (data,)).fetchone()
        assert result == searched_text(data)
    connection.close()


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from("ab .\0"), max_size=6),
            st.text(st.sampled_from("aB1 _,.\0\n\\ué漢"), max_size=12),
        ),
        max_size=8,
    )
)
def test_words_of_many_events_are_counted_as_those_of_each(events: list[tuple[str, str]]) -> None:
    counts: Counter[str] = Counter()
    count_words(counts, events)
    expected: Counter[str] = Counter()
    for subject, data in events:
        expected.update(set(split_words(f"{subject} {searched_text(data)}")))
    assert counts == expected
