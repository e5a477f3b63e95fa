"""Payloads on the page: nothing lost within the limit, nothing endless, nothing that recurses."""

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from almenara.web.payloads import SHOWN_BYTES, SHOWN_TEXT, hex_lines, indented, shown

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(values)
def test_colouring_and_indenting_change_no_value(value: object) -> None:
    found = shown(value)
    assert found is not None
    assert not found.cut
    assert json.loads("".join(token.text for token in found.tokens)) == json.loads(
        msgspec.json.encode(value)
    )


def test_each_piece_is_known_for_what_it_is() -> None:
    found = shown({"a": ["x", 1, None], "e": {}})
    assert found is not None
    assert [(token.kind, token.text) for token in found.tokens if token.kind] == [
        ("key", '"a"'), ("string", '"x"'), ("number", "1"), ("word", "null"), ("key", '"e"'),
    ]  # fmt: skip
    assert indented('{"e":{},"l":[]}') == '{\n  "e": {},\n  "l": []\n}'


def test_deep_and_long_payloads_are_cut_and_say_so() -> None:
    deep = shown(msgspec.Raw(b"[" * 100_000 + b"]" * 100_000))
    assert deep is not None
    assert deep.cut
    long = shown(["x" * 1_000_000])
    assert long is not None
    assert (long.cut, long.characters) == (True, 1_000_004)
    assert sum(len(token.text) for token in long.tokens) <= SHOWN_TEXT


def test_bytes_are_shown_to_a_limit() -> None:
    lines = hex_lines(b"\x00<b>" + bytes(2 * SHOWN_BYTES))
    assert len(lines) == SHOWN_BYTES // 16
    assert lines[0].offset == "000000"
    assert lines[0].figures.startswith("00 3c 62 3e 00")
    assert lines[0].text.startswith("\u00b7<b>")
