"""Conditions on responses: the path language, its errors, and any body."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara_http.conditions import (
    MISSING,
    ResponseContent,
    explain_failure,
    find_value,
    parse_condition,
)

BODY = {
    "status": "degraded", "count": 3, "share": 0.5, "ready": True, "none": None, "token": "s3cret",
    "nodes": [{"name": "a"}, {"name": "b"}], "a key.": {"x": 1}, "tags": ["x", 2], "text": "12",
}  # fmt: skip
CONTENT = ResponseContent(
    {"content-type": "application/json", "x-count": "7"}, "HTTP/1.1", json.dumps(BODY)
)


@pytest.mark.parametrize(
    "text",
    [
        'json status == "degraded"', "json status == degraded", "json status != ok",
        "json count == 3.0", "json count<4", "json share >= 0.5", "json ready == true",
        "json none == null", "json none exists", "json nodes[1].name == b",
        "json nodes[-1].name matches ^b$", 'json ["a key."].x > 0', "json $.count <= 3",
        "json $ exists", "json tags contains 2", "json status not contains up",
        "json absent not exists", "json nodes[2] not exists", 'json text == "12"',
        "header Content-Type matches ^application/", "header x-count > 6", "header x-count == 7",
        "header x-other not exists", "body contains degraded", "body not matches err.r",
        "version == HTTP/1.1",
    ],
)  # fmt: skip
def test_condition_holds(text: str) -> None:
    assert explain_failure(parse_condition(text), CONTENT) is None


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("json status == ok", "json status is 'degraded'; expected"),
        ("json ready == 1", "json ready is true; expected"),
        ("json text == 12", "json text is '12'; expected"),
        ("json text < 13", "json text is '12'; expected"),
        ("json ready > 0", "json ready is true; expected"),
        ("json absent != 1", "json absent does not exist; expected"),
        ("json absent not matches x", "json absent does not exist; expected"),
        ("json nodes.name exists", "json nodes.name does not exist"),
        ("json nodes == 2", "json nodes is a list of 2"),
        ("json none not exists", "json none is null"),
        ("header x-count < 7", "header x-count is '7'"),
        ("body contains healthy", "the body is a text of"),
        ("version == HTTP/2", "version is 'HTTP/1.1'"),
    ],
)
def test_failed_condition_is_explained(text: str, failure: str) -> None:
    assert (explain_failure(parse_condition(text), CONTENT) or "").startswith(failure)


def test_failure_shows_no_secret() -> None:
    failure = explain_failure(parse_condition("json token == another-s3cret"), CONTENT)
    assert failure == "json token is a text that may be a secret; expected: json token =="


@pytest.mark.parametrize("path", ["requirepass", "data.tokens", "accessKey", "db.dsn"])
def test_condition_about_a_secret_is_shown_without_its_value(path: str) -> None:
    condition = parse_condition(f"json {path} == another-s3cret")
    assert condition.text == f"json {path} =="


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("jsn a == 1", "did you mean json?"),
        ("json a = 1", "did you mean ==?"),
        ("json a exist", "did you mean exists?"),
        ("json a", "an operator is expected after json"),
        ("json a not == 1", "after not is not an operator"),
        ("json a < x", "a number is expected after <, not 'x'"),
        ("json a..b == 1", "a path such as a.b[0].c is expected at '..b == 1'"),
        ("json a[x] == 1", "a path such as a.b[0].c"),
        ("json == 1", "a path such as a.b[0].c"),
        ("json a == [1]", "the value is a text, a number"),
        ('json a == "x', "is not a text in quotes"),
        ("json a exists now", "nothing is expected after exists"),
        ("json a matches (", "missing )"),
        ("body ==", "a value is expected after =="),
        ("header == 1", "the name of a header is expected"),
        ("x" * 1_001, "longer than 1,000"),
    ],
)
def test_wrong_condition_is_refused_with_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_condition(text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ResponseContent({"content-type": "text/html; a=b"}, "HTTP/1.1", "<html>"),
         "the body (content-type text/html) is not JSON"),
        (ResponseContent({}, "HTTP/1.1", '{"a": [1, ', 10), "longer than body_limit (10 bytes)"),
        (ResponseContent({}, "HTTP/1.1", "[" * 100_000), "nested too deeply"),
        (ResponseContent({}, "HTTP/1.1", "9" * 5_000), "is not JSON"),
    ],
)  # fmt: skip
def test_body_that_is_not_json_fails_with_its_reason(content: ResponseContent, reason: str) -> None:
    assert reason in str(explain_failure(parse_condition("json a exists"), content))


KEYS = st.text(max_size=8)
STEPS = st.lists(KEYS | st.integers(-9, 9), max_size=4)


def quote(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f"[{json.dumps(step)}]"


@given(STEPS)
def test_any_key_can_be_written_in_quotes(steps: list[str | int]) -> None:
    text = "$" + "".join(map(quote, steps))
    assert list(parse_condition(f"json {text} exists").path) == steps


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@given(TREES, STEPS)
def test_find_value_agrees_with_python(tree: Any, steps: list[str | int]) -> None:
    expected = tree
    for step in steps:
        try:
            fits = isinstance(expected, dict) == isinstance(step, str)
            expected = expected[step] if fits and isinstance(expected, dict | list) else MISSING
        except (KeyError, IndexError):
            expected = MISSING
        if expected is MISSING:
            break
    assert find_value(tree, tuple(steps)) is expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str, body: str) -> None:
    for start in ("", "json ", "header ", "body ", "json a matches "):
        try:
            condition = parse_condition(start + text)
        except ValueError:
            continue
        explain_failure(condition, ResponseContent({}, "HTTP/1.1", body))
