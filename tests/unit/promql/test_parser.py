"""Queries: what is parsed, and what is refused with its place."""

import json

import pytest
from hypothesis import given, strategies as st

from almenara.promql.parser import parse_duration, parse_query, parse_selector
from almenara.promql.syntax import (
    AGGREGATIONS,
    FUNCTIONS,
    Aggregation,
    Binary,
    Call,
    Expression,
    LabelMatcher,
    Number,
    QueryError,
    Selector,
)

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name.lower() not in ("by", "without", "offset", "inf", "nan", *AGGREGATIONS)
)
MATCHERS = st.builds(
    LabelMatcher, NAMES, st.sampled_from(("=", "!=", "=~", "!~")), st.text(max_size=10)
)
SELECTORS = st.builds(
    lambda matchers, offset: Selector(matchers=tuple(matchers), offset=offset),
    st.lists(MATCHERS, min_size=1, max_size=3), st.sampled_from((0, 1_500, 3_600_000)),
)  # fmt: skip
CALLS = st.builds(
    lambda function, selector, span: Call(
        function, Selector(matchers=selector.matchers, range=span, offset=selector.offset)
    ),
    st.sampled_from(FUNCTIONS), SELECTORS, st.integers(1, 10**9),
)  # fmt: skip
NUMBERS = st.floats(0, 1e300, allow_nan=False).map(Number)
EXPRESSIONS = st.recursive(
    st.one_of(SELECTORS, CALLS, NUMBERS),
    lambda inner: st.one_of(
        st.builds(
            Aggregation, st.sampled_from(AGGREGATIONS), st.lists(NAMES, max_size=2).map(tuple),
            st.booleans(), inner,
        ),
        st.builds(Binary, st.sampled_from("+-*/%"), inner, inner),
    ),
    max_leaves=6,
)  # fmt: skip


def write(expression: Expression) -> str:
    """The text of an expression, with the strings of Go."""
    match expression:
        case Number(value):
            return repr(value)
        case Selector():
            matchers = ", ".join(
                f"{each.label}{each.operator}{json.dumps(each.value)}"
                for each in expression.matchers
            )
            text = "{" + matchers + "}"
            if expression.range:
                text += f"[{expression.range}ms]"
            return text + (f" offset {expression.offset}ms" if expression.offset else "")
        case Call(function, selector):
            return f"{function}( {write(selector)} )"
        case Aggregation(operator, labels, is_without, operand):
            keyword = "without" if is_without else "by"
            grouping = f" {keyword} ({', '.join(labels)})" if labels or is_without else ""
            return f"{operator}{grouping} ({write(operand)})"
        case Binary(operator, left, right):
            return f"({write(left)}) {operator} ({write(right)})"


@given(EXPRESSIONS)
def test_parser_reads_what_was_written(expression: Expression) -> None:
    text = write(expression)
    if "\\ud" in text:
        # JSON writes characters beyond 16 bits as two escapes, and Go does not.
        return
    assert parse_query(text) == expression


@given(st.text(max_size=40) | st.text('{}()[]",=~!abc5m \\', max_size=40))
def test_parser_refuses_any_text_with_a_query_error(text: str) -> None:
    try:
        parse_query(text)
    except QueryError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", Selector(matchers=(LabelMatcher("__name__", "=", "cpu"),))),
        (
            'sum(rate(a:b_total{x!="1",}[5m])) by (y)',
            Aggregation(
                "sum", ("y",), False,
                Call(
                    "rate",
                    Selector(
                        matchers=(LabelMatcher("__name__", "=", "a:b_total"),
                                  LabelMatcher("x", "!=", "1")),
                        range=300_000,
                    ),
                ),
            ),
        ),
        ('{"a.b"}', Selector(matchers=(LabelMatcher("__name__", "=", "a.b"),))),
        (
            "{x='\\'\\u00e9\\x41', y=`\\d`}",
            Selector(matchers=(LabelMatcher("x", "=", "'éA"), LabelMatcher("y", "=", "\\d"))),
        ),
        ("1 + 2 * 3", Binary("+", Number(1), Binary("*", Number(2), Number(3)))),
        ("-0x10 - -1e3 # c", Binary("-", Number(-16), Number(-1000))),
        ("sum", Selector(matchers=(LabelMatcher("__name__", "=", "sum"),))),
    ],
)  # fmt: skip
def test_parser_accepts_the_forms_of_prometheus(text: str, expected: Expression) -> None:
    assert parse_query(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: parse error: unexpected the end of the query"),
        ("cpu{", "1:5: parse error: unexpected the end"),
        ("cpu\n  }", "2:3: parse error: unexpected }"),
        ("{}", "the selector has no matcher"),
        ("rate(cpu)", "rate needs a selector with a range"),
        ("topk(3, x)", "topk is not supported; Almenara evaluates"),
        ("cpu > 1", "unexpected >; Almenara evaluates"),
        ("cpu[0s]", "the range is empty"),
        ('cpu{a="\\q"}', "unknown escape"),
        ("(" * 50 + "1" + ")" * 50, "nested more than 30 deep"),
        ("-" * 5_000 + "1", "longer than 4,000 characters"),
        ("1" + "+1" * 40, "more than 30 operators"),
    ],
)
def test_parser_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(QueryError) as raised:
        parse_query(text)
    assert message in str(raised.value)


def test_selector_of_series_has_neither_range_nor_arithmetic() -> None:
    assert parse_selector("cpu").matchers == (LabelMatcher("__name__", "=", "cpu"),)
    for text in ("cpu[5m]", "1", "sum(cpu)"):
        with pytest.raises(QueryError, match="is not a selector"):
            parse_selector(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("15", 15_000), ("0.5", 500), ("1h30m", 5_400_000), ("1d", 86_400_000), ("10ms", 10)],
)
def test_duration_is_read_in_milliseconds(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "m", "5x", "-1", "nan", "1e99", "99999999999999y", "5m ", "9" * 5_000 + "s"]
)
def test_duration_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        parse_duration(text)


def test_number_beyond_the_range_of_floats_is_refused_with_its_place() -> None:
    with pytest.raises(QueryError, match=r"1:3: parse error: 0xf+ is too large"):
        parse_query("1+0x" + "f" * 300)


@pytest.mark.parametrize(
    "text", ["1" * 300_000 + "a", "1s" * 300_000 + "x", 'a{b="' + '\\"' * 300_000]
)
def test_long_tokens_that_do_not_end_take_linear_time(text: str) -> None:
    # Quadratic time would take minutes.
    with pytest.raises(QueryError):
        parse_query(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.", 1.0), (".5e+1", 5.0), ("1e3", 1000.0), ("0x1F", 31.0), ("1.5E-1", 0.15)],
)
def test_numbers_are_read_in_each_form(text: str, value: float) -> None:
    assert parse_query(text) == Number(value)
