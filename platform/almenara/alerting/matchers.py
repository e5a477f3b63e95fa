"""Matchers: conditions on labels, written as in Alertmanager."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

LABEL_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}"
"""Names in matchers: labels of Kubernetes can begin with a digit, and are long."""
MATCHER: Final = re.compile(rf"\s*({LABEL_NAME})\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
MAX_COMPARED: Final = 1_000
"""Characters of a value that an expression is compared with."""
SEVERITY: Final = "severity"
"""The label that is compared without regard to case: rules write ERROR, receivers get error."""


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
        value, expected, flags = labels.get(self.name, ""), self.value, re.DOTALL
        if self.name == SEVERITY:
            value, flags = value.lower(), flags | re.IGNORECASE
        if self.operator in ("=~", "!~"):
            is_match = _compiled(expected, flags).fullmatch(value[:MAX_COMPARED]) is not None
        else:
            is_match = value == (expected.lower() if self.name == SEVERITY else expected)
        return is_match == (self.operator in ("=", "=~"))


@lru_cache(maxsize=1024)
def _compiled(expression: str, flags: int = re.DOTALL) -> re.Pattern[str]:
    return re.compile(expression, flags)


def parse_matcher(text: str) -> Matcher:
    """Return the matcher of a text such as `team=db` or `team=~"db|web"`. Raises `ValueError`."""
    match = MATCHER.fullmatch(text)
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
        try:
            _compiled(value)
        except re.error as error:
            raise ValueError(f"{value[:100]!r} is not a regular expression: {error}") from None
    return Matcher(name, operator, value)


def match_all(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether labels meet every condition."""
    return all(matcher.matches(labels) for matcher in matchers)
