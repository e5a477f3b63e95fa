"""What a token may see at most: patterns of sources, guarded or granted, compared in one way."""

import pytest
from hypothesis import given, strategies as st

from almenara.patterns import compile_pattern, patterns_overlap
from almenara.scope import Grant, Scope, build_scope
from almenara.signals import Event

names = st.text(alphabet="ab./-", max_size=6)
patterns = st.text(alphabet="ab*./", max_size=6).flatmap(
    lambda text: st.sampled_from([text, f"{text}/>", f"{text}.>", f"{text}/**", f"{text}.**", ">"])
)
GUARDED_PATTERNS = ("kubernetes", "kubernetes-*", "*-eu", "kubernetes-eu/>", "kube*", ">", "k*-e*")
GUARDED_ORIGINS = ("kubernetes-eu/pods", "kubernetes-eu")


def matches(pattern: str, name: str) -> bool:
    expression = compile_pattern(pattern)
    return name == pattern if expression is None else expression.fullmatch(name) is not None


@given(patterns, patterns, names)
def test_patterns_overlap_wherever_a_name_matches_both(one: str, other: str, name: str) -> None:
    if matches(one, name) and matches(other, name):
        assert patterns_overlap(one, other)
    assert patterns_overlap(one, other) is patterns_overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("nats", "nats", True), ("nats", "http", False), ("nats", "nats/>", False),
        ("nats/A", "nats/>", True), ("kubernetes-*", "kubernetes-eu", True),
        ("kubernetes-*", "*-eu", True), ("kubernetes-*", "nats*", False), ("*", "a/b", False),
        ("a*c", "ab*", True), ("a*c", "*d", False), (">", "a", True), (">", ">", True),
        ("a.>", "a.b/c", True), ("*b*", "a*a", True), ("*/x", "a/*", True), ("a*", "b*", False),
        ("a/**", "a", True), ("a/**", "a/>", True), ("a/**", "ab", False), ("a/**", "a/b.**", True),
    ],
)  # fmt: skip
def test_patterns_overlap_exactly(one: str, other: str, overlap: bool) -> None:
    assert patterns_overlap(one, other) is overlap


@pytest.mark.parametrize("guarded", GUARDED_PATTERNS)
@pytest.mark.parametrize(
    "sources",
    [
        (), ("kubernetes-eu",), ("kubernetes-*",), ("kubernetes-eu/pods",), ("*",), (">",),
        ("nats", "kubernetes-eu"), ("*-eu",), ("kubernetes-eu/*",), ("nats",),
    ],
)  # fmt: skip
def test_delegate_never_shows_guarded_sources(guarded: str, sources: tuple[str, ...]) -> None:
    scope = build_scope([Grant()], access_log=True, guarded=[guarded], namespaces=["payments"])
    delegated = build_scope(scope.delegate(Grant(sources=sources)), access_log=False)
    for origin in GUARDED_ORIGINS:
        hidden = Event(
            id="1", source="s", type="pod.failed", time=0, origin=origin, data=None,
            attributes={"namespace": "search"},
        )  # fmt: skip
        if not scope.permits(hidden):
            assert not delegated.permits(hidden), (guarded, sources, origin)
    if guarded not in (">",) and sources == ("nats",):
        assert scope.delegate(Grant(sources=sources)) == [Grant(sources=sources)]


def test_guarded_patterns_hide_the_sources_that_they_match() -> None:
    scope = Scope(guarded=("kubernetes-*",), namespaces=("payments",))
    visible, hidden = (
        Event(
            id="1", source="s", type="pod.failed", time=0, origin="kubernetes-eu/pods", data=None,
            attributes={"namespace": namespace},
        )
        for namespace in ("payments", "search")
    )  # fmt: skip
    assert scope.permits(visible)
    assert not scope.permits(hidden)
    assert scope.source_share("kubernetes-eu") == "part"
    assert not scope.has_cluster_right("get pods/log", "kubernetes-eu", "search")
