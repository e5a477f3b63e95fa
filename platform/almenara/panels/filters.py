"""The values of a panel's filters, read from the address of its page and written back to it."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Self

import msgspec

from almenara.hookspecs import Filter as FilterField
from almenara.patterns import compile_pattern
from almenara.signals import Resource

EVENT_FILTERS: Final = frozenset(
    ("source", "origin", "type", "subject", "severity", "text", "correlation", "since", "until")
)
"""The filters of events: those of the events page."""
RESOURCE_FILTERS: Final = ("namespace", "name", "status", "text")
"""The filters of resources and samples, besides those of values in the state."""
STATE_PREFIX: Final = "state."
"""What the names of filters of values in the state begin with."""
MAX_VALUE: Final = 200
"""Characters of a value that are read."""


class PanelFilters(Protocol):
    """The values of a panel's filters; panels with equal values share a channel."""

    def to_query(self) -> dict[str, str]: ...


def filter_names(filters: Sequence[str | FilterField]) -> list[str]:
    """The names of filters, however they were declared."""
    return [each if isinstance(each, str) else each.name for each in filters]


def is_resource_filter(name: str) -> bool:
    """Whether panels of resources can have a filter of this name."""
    return name in RESOURCE_FILTERS or (name.startswith(STATE_PREFIX) and name != STATE_PREFIX)


def find_value(tree: Any, path: str) -> Any:
    """The value at a path with dots between the levels; None where it is missing.

    A key that has dots itself is found before the levels of the same name.
    """
    value = tree
    while path:
        if not isinstance(value, Mapping):
            return None
        if path in value:
            return value[path]
        name, _, path = path.partition(".")
        value = value.get(name)
    return value


def matches_pattern(pattern: str, name: str) -> bool:
    """Whether a name equals or matches a pattern as in NATS subjects; empty matches all."""
    if not pattern or pattern == name or pattern == ">":
        return True
    expression = _compile(pattern)
    return expression is not None and expression.fullmatch(name) is not None


@functools.lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str] | None:
    # Every resource and every signal is matched against the patterns of all channels.
    return compile_pattern(pattern)


class ResourceFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Which resources are shown, and in which order."""

    namespace: str = ""
    name: str = ""
    status: str = ""
    text: str = ""
    sort: str = ""
    state: tuple[tuple[str, str], ...] = ()
    """Paths in the state, and the value or pattern that each must have."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the filters from the parameters of an address."""
        values = {name: text.strip()[:MAX_VALUE] for name, text in query.items() if text.strip()}
        return cls(
            **{field: values[field] for field in (*RESOURCE_FILTERS, "sort") if field in values},
            state=tuple(
                sorted(
                    (name.removeprefix(STATE_PREFIX), text)
                    for name, text in values.items()
                    if name.startswith(STATE_PREFIX)
                )
            ),
        )

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        values = {field: getattr(self, field) for field in (*RESOURCE_FILTERS, "sort")}
        values |= {STATE_PREFIX + path: text for path, text in self.state}
        return {field: value for field, value in values.items() if value}

    def matches(self, resource: Resource) -> bool:
        """Whether a resource passes every filter that is set."""
        if not matches_pattern(self.namespace, resource.namespace):
            return False
        if not matches_pattern(self.name, resource.name):
            return False
        if self.status and self.status.casefold() != resource.status.casefold():
            return False
        if not all(_has_value(resource, path, text) for path, text in self.state):
            return False
        if not self.text:
            return True
        state = msgspec.json.encode(resource.state, enc_hook=str).decode("utf-8", "replace")
        text = f"{resource.namespace} {resource.name} {resource.status} {state}".casefold()
        return all(word in text for word in self.text.casefold().split())


def _has_value(resource: Resource, path: str, expected: str) -> bool:
    value = find_value(resource.state, path)
    values = value if isinstance(value, list | tuple) else (value,)
    return any(
        matches_pattern(expected.casefold(), format_state(each).casefold()) for each in values
    )


def format_state(value: Any) -> str:
    """A value of the state as it is written in a filter; empty for what has no text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


class CustomFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Values of filters whose meaning only the plugin knows."""

    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the filters from the parameters of an address."""
        stripped = ((name, text.strip()[:MAX_VALUE]) for name, text in query.items())
        return cls(values=tuple(sorted(pair for pair in stripped if pair[1])))

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        return dict(self.values)
