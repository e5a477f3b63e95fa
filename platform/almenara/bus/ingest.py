"""Which events are stored: the rules of `storage.ingest_rules`."""

from collections.abc import Callable, Sequence
from typing import Final

from almenara.bus.codec import Redact, event_key, normalize
from almenara.bus.validation import InvalidSignalError
from almenara.config import EventMatch, IngestRule
from almenara.patterns import compile_pattern
from almenara.signals import Event, Severity, Signal

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


def normalize_batch(
    batch: Sequence[Signal], origin: str, redact: Redact | None, rules: IngestRules
) -> tuple[list[Signal], int]:
    """Return the signals of a batch as the log stores them, and how many events the rules leave
    out.

    Raises `InvalidSignalError` that names the place of a wrong signal.
    """
    signals: list[Signal] = []
    left_out = 0
    for index, signal in enumerate(batch):
        try:
            normalized = normalize(signal, origin, redact)
        except InvalidSignalError as error:
            refused = InvalidSignalError(f"batch[{index}]: {error}")
            refused.__cause__ = error.__cause__
            raise refused from error.__cause__
        if isinstance(normalized, Event) and not rules.accepts(normalized):
            left_out += 1
        else:
            signals.append(normalized)
    return signals, left_out


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
