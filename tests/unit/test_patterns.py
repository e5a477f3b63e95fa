"""Patterns of names: what they match, and how long it takes."""

import functools
import re
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import given, strategies as st

from almenara.patterns import compile_pattern


def matches_by_definition(text: str, name: str) -> bool:
    """The definition, executed slowly: every way to divide a name is tried."""
    if len(text) > 3 and text.endswith(("/**", ".**")):
        return any(
            matches_by_definition(text[:-3], name[:end])
            for end in range(len(name) + 1)
            if end == len(name) or (name[end] == text[-3] and end + 1 < len(name))
        )

    @functools.cache
    def rest(at: int, place: int) -> bool:
        if at == len(text):
            return place == len(name)
        last = at == len(text) - 1
        if text[at] == ">" and last and (at == 0 or text[at - 1] in "./"):
            return place < len(name)
        if text[at] == "*":
            more = place < len(name) and name[place] not in "./"
            return rest(at + 1, place) or (more and rest(at, place + 1))
        return place < len(name) and name[place] == text[at] and rest(at + 1, place + 1)

    return rest(0, 0)


@given(st.text("ab./*>", max_size=9), st.text("ab./", max_size=9))
def test_compile_pattern_matches_its_definition(text: str, name: str) -> None:
    expression = compile_pattern(text)
    if expression is None:
        assert "*" not in text
    else:
        assert (expression.fullmatch(name) is not None) is matches_by_definition(text, name)


def test_compile_pattern_follows_nats_wildcards() -> None:
    for text, good, bad in (
        ("planning.*", "planning.story", "planning.story.created"),
        ("planning.>", "planning.story.created", "planning"),
        ("nats/*", "nats/PLANNING", "nats/a/b"),
        ("nats/PLAN*_A", "nats/PLANNING_A", "nats/PLANNING_B"),
        ("a*a", "aa", "a"),
        ("a*b*b", "abxb", "axb"),
        (">", "anything.at/all", ""),
        ("ray/lab/**", "ray/lab", "ray/lab-2"),
        ("ray/lab/**", "ray/lab/failed/x", "ray/lab/"),
        ("ray/*/**", "ray/lab/failed", "ray"),
    ):
        expression = compile_pattern(text)
        assert expression is not None
        assert expression.fullmatch(good), (text, good)
        assert not expression.fullmatch(bad), (text, bad)


@pytest.fixture
def time_limit() -> Iterator[None]:
    """Turn a test that does not end into a failure."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the pattern takes too long")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("time_limit")
def test_compile_pattern_never_backtracks_exponentially() -> None:
    name = "a" * 2_000
    stars = ("*" * 200 + "!", "a*" * 200 + "!", "*a" * 200 + "!", "*aa*a" * 100 + "b", "*.*" * 99)
    for text in stars:
        for tried in (name, ".".join([name] * 3), name + "!" + name):
            expression = re.compile(f"(?:{getattr(compile_pattern(text), 'pattern', '')}|x)")
            assert expression.fullmatch(tried) is None
