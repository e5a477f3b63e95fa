import json
from typing import Any

import msgspec
import pytest

from almenara.panels.event_rows import MAX_PART, MAX_SUMMARY, summarize
from almenara.signals import Event


def summary(data: Any) -> str:
    raw = msgspec.Raw(json.dumps(data).encode())
    return summarize(Event(id="1", source="s", type="t", time=0, data=raw))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"b": 1, "reason": "OOM", "a": "x"}, "OOM  b=1  a=x"),
        ({"first": 1_796_017_890_899_209, "count": 6, "node": ""}, "count=6"),
        ({"attributes": {"model": "qwen", "tokens": 24}, "links": []}, "model=qwen  tokens=24"),
        ({"payload": {"title": "Upload"}, "event_type": "X"}, "Upload"),
        (
            {"duration": 9.66762529, "bytes": 1234567.8, "n": 2},
            "duration=9.668  bytes=1234568  n=2",
        ),
        ({"is_new": False, "zero": 0, "none": None}, "is_new=false  zero=0"),
        ({"deep": {"inner": {"a": [1]}}}, 'inner={"a":[1]}'),
        ("plain text", "plain text"),
        ([1, 2], "[1, 2]"),
        (None, ""),
    ],
)
def test_summary_has_what_people_read(data: Any, expected: str) -> None:
    assert summary(data) == expected


def test_summary_is_short_for_any_payload() -> None:
    long = {"x" * 5_000: "y" * 5_000, "message": "z" * 5_000, "more": {"k" * 5_000: 1.5}}
    assert len(summary(long)) <= MAX_SUMMARY + 2 * MAX_PART + 10
