"""Payloads on pages: complete within the limit, bounded, and without recursion."""

import json

import msgspec
from hypothesis import given, settings, strategies as st

from almenara.web.payloads import (
    DISPLAYED_BYTES,
    DISPLAYED_CHARACTERS,
    format_hex,
    format_json,
    indent_json,
)

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(deadline=None)
@given(values)
def test_format_json_changes_no_value(value: object) -> None:
    payload = format_json(value)
    assert payload is not None
    assert not payload.is_cut
    assert json.loads("".join(token.text for token in payload.tokens)) == json.loads(
        msgspec.json.encode(value)
    )


def test_format_json_marks_each_kind_of_token() -> None:
    payload = format_json({"a": ["x", 1, None], "e": {}})
    assert payload is not None
    assert [(token.kind, token.text) for token in payload.tokens if token.kind] == [
        ("key", '"a"'), ("string", '"x"'), ("number", "1"), ("word", "null"), ("key", '"e"'),
    ]  # fmt: skip
    assert indent_json('{"e":{},"l":[]}') == '{\n  "e": {},\n  "l": []\n}'


def test_format_json_cuts_deep_and_long_payloads_and_marks_them() -> None:
    deep = format_json(msgspec.Raw(b"[" * 100_000 + b"]" * 100_000))
    assert deep is not None
    assert deep.is_cut
    long = format_json(["x" * 1_000_000])
    assert long is not None
    assert (long.is_cut, long.characters) == (True, 1_000_004)
    assert sum(len(token.text) for token in long.tokens) <= DISPLAYED_CHARACTERS


def test_format_hex_stops_at_the_limit() -> None:
    lines = format_hex(b"\x00<b>" + bytes(2 * DISPLAYED_BYTES))
    assert len(lines) == DISPLAYED_BYTES // 16
    assert lines[0].offset == "000000"
    assert lines[0].digits.startswith("00 3c 62 3e 00")
    assert lines[0].text.startswith("\u00b7<b>")
