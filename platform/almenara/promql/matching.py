"""Labels of series, and which series a selector matches.

A series has the labels `__name__` (its metric), `kind`, `namespace`, `name` and `origin`, and one
of a bucket of a histogram `le`.
"""

from collections.abc import Callable
from typing import Any, Final

from almenara.histograms import SUFFIX, split_bucket
from almenara.patterns import compile_expression
from almenara.promql.syntax import (
    LIMIT_LABEL,
    METRIC_LABEL,
    LabelMatcher,
    QueryError,
    Selector,
)
from almenara.state.sample_history import SeriesMatch
from almenara.state.sample_schema import SeriesName

LABELS: Final = (METRIC_LABEL, "kind", "namespace", "name", "origin")
"""The labels, in the order of the fields of `SeriesName`."""


def label_series(name: SeriesName) -> dict[str, str]:
    """Return the labels of a series; those without a value are left out."""
    labels = {label: value for label, value in zip(LABELS, name, strict=True) if value}
    if (bucket := split_bucket(name.metric)) is not None:
        labels[METRIC_LABEL], labels[LIMIT_LABEL] = bucket
    return labels


def label_value(name: SeriesName, label: str) -> str:
    """Return the value of a label of a series; empty where it has none."""
    if label in (METRIC_LABEL, LIMIT_LABEL):
        return label_series(name).get(label, "")
    return name[LABELS.index(label)] if label in LABELS else ""


def build_match(selector: Selector) -> SeriesMatch:
    """Return what a selector matches. Raises `QueryError` for a wrong regular expression."""
    equal: dict[str, str] = {}
    tests: list[Callable[[SeriesName], bool]] = []
    for matcher in selector.matchers:
        field = "metric" if matcher.label == METRIC_LABEL else matcher.label
        is_bucket = field == "metric" and matcher.value.endswith(SUFFIX)
        if matcher.operator == "=" and is_bucket and "prefix" not in equal:
            # The limit follows, in the name of the metric.
            equal["prefix"] = matcher.value
            tests.append(_build_test(matcher))
        elif matcher.operator == "=" and matcher.label in LABELS and field not in equal:
            equal[field] = matcher.value
        else:
            tests.append(_build_test(matcher))
    test = None if not tests else lambda name: all(test(name) for test in tests)
    return SeriesMatch(**equal, test=test)


def _build_test(matcher: LabelMatcher) -> Callable[[SeriesName], bool]:
    is_expected = matcher.operator in ("=", "=~")
    expression = None if matcher.operator in ("=", "!=") else _compile(matcher.value)

    def test(name: SeriesName) -> bool:
        value = label_value(name, matcher.label)
        if expression is None:
            return (value == matcher.value) == is_expected
        return (expression.fullmatch(value) is not None) == is_expected

    return test


def _compile(text: str) -> Any:
    try:
        return compile_expression(text, dot_matches_newline=True)
    except ValueError as error:
        raise QueryError(str(error)) from None
