"""Matchers: conditions on labels, written as in Alertmanager."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from almenara.patterns import compile_expression
from almenara.signals import Resource

LABEL_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}"
"""Names in matchers: labels of Kubernetes can begin with a digit, and are long."""
MATCHER: Final = re.compile(rf"\s*({LABEL_NAME})\s*(=~|!~|!=|=)\s*(.*)", re.DOTALL)
MAX_COMPARED: Final = 1_000
"""Characters of a value that an expression is compared with."""
SEVERITY: Final = "severity"
"""The label that is compared without regard to case: rules write ERROR, receivers get error."""
RULE: Final = "rule"
RESERVED_LABELS: Final = (RULE, SEVERITY)
"""Labels that every alert has, whatever its rule and its group are."""


class Matcher(msgspec.Struct, frozen=True):
    """A condition on one label; a label that is missing counts as empty."""

    name: str
    operator: str
    """One of = != =~ !~."""
    value: str

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{msgspec.json.encode(self.value).decode()}"

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet the condition. A regular expression must match the whole value."""
        value, expected = labels.get(self.name, ""), self.value
        if self.name == SEVERITY:
            value = value.lower()
        if self.operator in ("=~", "!~"):
            expression = _compile(expected, self.name)
            is_match = expression.fullmatch(value[:MAX_COMPARED]) is not None
        else:
            is_match = value == (expected.lower() if self.name == SEVERITY else expected)
        return is_match == (self.operator in ("=", "=~"))


def _compile(expression: str, label: str) -> Any:
    """Return the expression that values of a label are compared with. Raises `ValueError`."""
    return compile_expression(expression, dot_matches_newline=True, ignores_case=label == SEVERITY)


def parse_matcher(text: str) -> Matcher:
    """Return the matcher of a text such as `team=db` or `team=~"db|web"`. Raises `ValueError`."""
    match = MATCHER.fullmatch(text.rstrip())
    if match is None:
        raise ValueError(
            f"{text[:100]!r} is not a matcher; write a label, one of = != =~ !~, and a value:"
            ' team=db or team=~"db|web"'
        )
    name, operator, value = match.groups()
    if value.startswith('"'):
        try:
            value = msgspec.json.decode(value, type=str)
        except msgspec.DecodeError:
            raise ValueError(f"the value of {text[:100]!r} is not a complete quoted text") from None
    if operator in ("=~", "!~"):
        _compile(value, name)
    return Matcher(name, operator, value)


def match_all(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether labels meet every condition."""
    return all(matcher.matches(labels) for matcher in matchers)


def match_alert(alert: Resource) -> list[Matcher]:
    """Return matchers of one alert, and of no other: its rule and the labels of its group.

    A label of its group that is empty is matched as well: other alerts of the rule have it. The
    labels of what it is about can change, and are used only where a label of the group cannot be
    named in a matcher.
    """
    labels = alert.state.get("labels", {})
    grouped = alert.state.get("grouped_by")
    names = set(labels) if grouped is None else set(grouped)
    if not all(map(is_nameable, names)):
        names |= set(labels)
    return [
        Matcher(RULE, "=", alert.namespace),
        *(Matcher(name, "=", labels.get(name, "")) for name in sorted(filter(is_nameable, names))),
    ]


def is_nameable(label: str) -> bool:
    """Whether a matcher can name a label of an alert."""
    return label not in RESERVED_LABELS and re.fullmatch(LABEL_NAME, label) is not None
