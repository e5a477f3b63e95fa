"""Which events are stored: the rules of `storage.ingest_rules`."""

from collections.abc import Callable, Sequence
from typing import Final

from almenara.bus.codec import event_key
from almenara.config import EventMatch, IngestRule
from almenara.patterns import compile_pattern
from almenara.signals import Event, Severity

OWN_ORIGINS: Final = "almenara/"
"""Events of Almenara itself, such as its access log, are all stored."""
SHARES: Final = 2**64


class IngestRules:
    """The rules, compiled; the first that matches an event decides."""

    def __init__(self, rules: Sequence[IngestRule]) -> None:
        self._rules = [(compile_match(rule.match), round(rule.keep * SHARES)) for rule in rules]

    def accepts(self, event: Event) -> bool:
        """Whether to store an event. The same event has the same answer at each delivery."""
        for matches, share in self._rules:
            if matches(event):
                is_chosen = int.from_bytes(event_key(event)[:8], "big") < share
                return is_chosen or event.origin.startswith(OWN_ORIGINS)
        return True


def compile_match(match: EventMatch) -> Callable[[Event], bool]:
    """Return whether an event matches, as a function."""
    limit = None if match.severity_below is None else Severity[match.severity_below]
    tests = [
        _compile_name(name, text) for name in ("origin", "type") if (text := getattr(match, name))
    ]

    def matches(event: Event) -> bool:
        return (limit is None or event.severity < limit) and all(test(event) for test in tests)

    return matches


def _compile_name(name: str, text: str) -> Callable[[Event], bool]:
    expression = compile_pattern(text)
    if expression is None:
        return lambda event: getattr(event, name) == text
    return lambda event: expression.fullmatch(getattr(event, name)) is not None
