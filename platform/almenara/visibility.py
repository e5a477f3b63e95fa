"""Tests of a signal's names and labels, each a predicate in memory and a condition of SQL.

A scope is compiled into a tree of them. Live pages call `reduce`, history calls `condition`; since
both walk the same tree, they agree on what is visible.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, Self

import msgspec

from almenara.patterns import compile_pattern

REMEMBERED: Final = 4096

GetLabels = Callable[[], Mapping[str, str]]


class SignalNames(msgspec.Struct, frozen=True):
    """What tests look at besides labels."""

    origin: str
    type: str | None
    """None for resources and samples, which have no type and match no pattern of types."""
    namespace: str
    """Empty for none."""


class Condition(msgspec.Struct, frozen=True):
    """A condition of SQL and the values that are bound in it."""

    sql: str
    parameters: tuple[Any, ...] = ()

    @classmethod
    def join(cls, operator: Literal["AND", "OR"], conditions: Iterable[Self]) -> Self:
        """Join conditions; of none the neutral element, true for AND and false for OR."""
        parts = list(conditions)
        sql = f" {operator} ".join(part.sql for part in parts) or str(int(operator == "AND"))
        return cls(f"({sql})", tuple(value for part in parts for value in part.parameters))


class Columns(Protocol):
    """How the log stores what is tested."""

    def name_matches(self, column: Literal["origin", "type"], patterns: Sequence[str]) -> Condition:
        """SQL for: the name in a column matches one of the patterns."""

    def namespace_matches(self, patterns: Sequence[str]) -> Condition:
        """SQL for: the namespace is not empty and matches one of the patterns."""

    def namespace_is_in(self, names: Sequence[str]) -> Condition:
        """SQL for: the namespace, empty for none, is one of the names."""

    def has_label(self, name: str, value: str) -> Condition:
        """SQL for: the labels contain this one."""


class Test(Protocol):
    """One test, or several joined."""

    def reduce(self, names: SignalNames) -> "bool | Test":
        """Return the result, or the test of labels that remains once the names are known."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """The result of a reduced test."""

    def decide(self, origin: str, event_type: str) -> bool | None:
        """The result for events of this origin and type; None where that depends on the event."""

    def condition(self, columns: Columns) -> Condition:
        """The same test as SQL."""


class _OfNames:
    """A test that names alone decide."""

    def decide(self, origin: str, event_type: str) -> bool | None:
        return None

    def holds(self, labels: Mapping[str, str]) -> bool:
        raise TypeError("a test of names is decided by `reduce`")


class NameMatches(_OfNames, msgspec.Struct, frozen=True):
    """The origin or the type matches one of the patterns."""

    column: Literal["origin", "type"]
    patterns: tuple[str, ...]

    def reduce(self, names: SignalNames) -> bool:
        name = names.origin if self.column == "origin" else names.type
        return name is not None and matches_any(self.patterns, name)

    def decide(self, origin: str, event_type: str) -> bool:
        return matches_any(self.patterns, origin if self.column == "origin" else event_type)

    def condition(self, columns: Columns) -> Condition:
        return columns.name_matches(self.column, self.patterns)


class NamespaceMatches(_OfNames, msgspec.Struct, frozen=True):
    """There is a namespace, and it matches one of the patterns."""

    patterns: tuple[str, ...]

    def reduce(self, names: SignalNames) -> bool:
        return names.namespace != "" and matches_any(self.patterns, names.namespace)

    def condition(self, columns: Columns) -> Condition:
        return columns.namespace_matches(self.patterns)


class NamespaceIsIn(_OfNames, msgspec.Struct, frozen=True):
    """The namespace, empty for none, is one of the names."""

    names: tuple[str, ...]

    def reduce(self, names: SignalNames) -> bool:
        return names.namespace in self.names

    def condition(self, columns: Columns) -> Condition:
        return columns.namespace_is_in(self.names)


class HasLabel(msgspec.Struct, frozen=True):
    """The labels contain this one. Labels are read only where names do not decide."""

    name: str
    value: str

    def reduce(self, names: SignalNames) -> Test:
        return self

    def holds(self, labels: Mapping[str, str]) -> bool:
        return labels.get(self.name) == self.value

    def decide(self, origin: str, event_type: str) -> None:
        return None

    def condition(self, columns: Columns) -> Condition:
        return columns.has_label(self.name, self.value)


class Not(msgspec.Struct, frozen=True):
    """The opposite of a test of names."""

    part: NameMatches

    def reduce(self, names: SignalNames) -> bool:
        return not self.part.reduce(names)

    def holds(self, labels: Mapping[str, str]) -> bool:
        return not self.part.holds(labels)

    def decide(self, origin: str, event_type: str) -> bool:
        return not self.part.decide(origin, event_type)

    def condition(self, columns: Columns) -> Condition:
        inner = self.part.condition(columns)
        return Condition(f"NOT {inner.sql}", inner.parameters)


class AllOf(msgspec.Struct, frozen=True):
    """Every part holds."""

    parts: tuple[Test, ...]

    def reduce(self, names: SignalNames) -> bool | Test:
        remaining: list[Test] = []
        for part in self.parts:
            reduced = part.reduce(names)
            if reduced is False:
                return False
            if reduced is not True:
                remaining.append(reduced)
        return AllOf(tuple(remaining)) if remaining else True

    def holds(self, labels: Mapping[str, str]) -> bool:
        return all(part.holds(labels) for part in self.parts)

    def decide(self, origin: str, event_type: str) -> bool | None:
        decisions = {part.decide(origin, event_type) for part in self.parts}
        return False if False in decisions else None if None in decisions else True

    def condition(self, columns: Columns) -> Condition:
        return Condition.join("AND", [part.condition(columns) for part in self.parts])


class AnyOf(msgspec.Struct, frozen=True):
    """At least one part holds."""

    parts: tuple[Test, ...]

    def reduce(self, names: SignalNames) -> bool | Test:
        remaining: list[Test] = []
        for part in self.parts:
            reduced = part.reduce(names)
            if reduced is True:
                return True
            if reduced is not False:
                remaining.append(reduced)
        return AnyOf(tuple(remaining)) if remaining else False

    def holds(self, labels: Mapping[str, str]) -> bool:
        return any(part.holds(labels) for part in self.parts)

    def decide(self, origin: str, event_type: str) -> bool | None:
        decisions = {part.decide(origin, event_type) for part in self.parts}
        return True if True in decisions else None if None in decisions else False

    def condition(self, columns: Columns) -> Condition:
        return Condition.join("OR", [part.condition(columns) for part in self.parts])


class Visibility:
    """A tree of tests, with the results for the names it has met."""

    def __init__(self, test: Test) -> None:
        self.test = test
        # Signals come with the same few names again and again; labels are rarely needed.
        self._reduce = functools.lru_cache(maxsize=REMEMBERED)(test.reduce)
        self.decide = functools.lru_cache(maxsize=REMEMBERED)(test.decide)
        """Whether all events of an origin and a type are visible, or none; None where that depends
        on the event."""

    def permits(self, names: SignalNames, get_labels: GetLabels) -> bool:
        """Whether a signal may be seen; `get_labels` is called only where names do not decide."""
        reduced = self._reduce(names)
        return reduced if isinstance(reduced, bool) else reduced.holds(get_labels())

    def condition(self, columns: Columns) -> Condition:
        """The same for events in the log."""
        return self.test.condition(columns)


def matches(text: str, name: str) -> bool:
    """Whether a name matches a pattern, or equals a plain name."""
    expression = compiled(text)
    return name == text if expression is None else expression.fullmatch(name) is not None


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Whether a name matches one of several patterns."""
    return any(matches(text, name) for text in patterns)


@functools.lru_cache(maxsize=REMEMBERED)
def compiled(text: str) -> re.Pattern[str] | None:
    """`compile_pattern` of patterns that come again and again."""
    return compile_pattern(text)
