import pytest
from hypothesis import given, strategies as st

from almenara.alerting.matchers import Matcher, match_all, parse_matcher


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("team=db", {"team": "db"}, True),
        ("team = db", {"team": "db"}, True),
        ("team=db", {"team": "dba"}, False),
        ("team=db", {}, False),
        ("team=", {}, True),
        ("team!=db", {}, True),
        ("team!=db", {"team": "db"}, False),
        ('team="a, b"', {"team": "a, b"}, True),
        ("team=~db|web", {"team": "web"}, True),
        ("team=~db|web", {"team": "webs"}, False),
        ('team=~"d.*"', {"team": "d\nb"}, True),
        ("team!~db|web", {"team": "ops"}, True),
        ("team!~db|web", {"team": "db"}, False),
        ("severity=error", {"severity": "ERROR"}, True),
        ("severity!=ERROR", {"severity": "error"}, False),
        ("severity=~error|FATAL", {"severity": "fatal"}, True),
        ("team=~DB", {"team": "db"}, False),
        ("app.kubernetes.io/name=x", {"app.kubernetes.io/name": "x"}, True),
        ("1password.com/vault=x", {"1password.com/vault": "x"}, True),
        (f"{'a' * 130}/name=x", {f"{'a' * 130}/name": "x"}, True),
    ],
)
def test_matcher_compares_labels(text: str, labels: dict[str, str], matches: bool) -> None:
    assert parse_matcher(text).matches(labels) is matches


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a matcher"),
        ("team", "is not a matcher"),
        ("/team=x", "is not a matcher"),
        ('team="x', "not a complete quoted text"),
        ('team="x"y', "not a complete quoted text"),
        ("team=~(", r"the regular expression '\(' is wrong"),
    ],
)
def test_wrong_matcher_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_matcher(text)


@given(st.text(max_size=40))
def test_parser_returns_or_raises_value_error(text: str) -> None:
    try:
        matcher = parse_matcher(text)
    except ValueError:
        return
    assert parse_matcher(str(matcher)) == matcher


def test_matchers_must_all_match() -> None:
    matchers = [Matcher("a", "=", "1"), Matcher("b", "=~", "x+")]
    assert match_all(matchers, {"a": "1", "b": "xx"})
    assert not match_all(matchers, {"a": "1", "b": ""})
    assert match_all([], {})


@pytest.mark.parametrize("expression", ["(a+)+b", ".*.*.*.*b", "(a|a)*b"])
def test_no_expression_takes_long(expression: str) -> None:
    # Trying every way to divide the value would take years.
    assert not Matcher("a", "=~", expression).matches({"a": "a" * 1_000})
    assert Matcher("a", "=~", expression).matches({"a": "a" * 900 + "b"})


def test_spaces_around_a_value_are_left_out_in_linear_time() -> None:
    spaces = " " * 300_000
    assert parse_matcher(f"a={spaces}x{spaces}").value == "x"
    assert parse_matcher(f"a=x{spaces}y").value == f"x{spaces}y"
