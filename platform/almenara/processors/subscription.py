"""Which signals a processor reads: one look-up for a signal of a name that occurred before."""

import re
from collections.abc import Iterable
from typing import Final

from almenara.hookspecs import Subscription
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Signal

REMEMBERED_NAMES: Final = 10_000


class NameSet:
    """Names and patterns, with the answers of the last names."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[re.Pattern[str]] = []
        self._known: dict[str, bool] = {}
        self._plain: set[str] = set()
        for text in patterns:
            expression = compile_pattern(text)
            if expression is None:
                self._plain.add(text)
            else:
                self._patterns.append(expression)

    def __contains__(self, name: str) -> bool:
        answer = self._known.get(name)
        if answer is None:
            answer = name in self._plain or any(
                pattern.fullmatch(name) for pattern in self._patterns
            )
            if len(self._known) >= REMEMBERED_NAMES:
                # Names with ids in them; remembering all would take memory without a bound.
                self._known.clear()
            self._known[name] = answer
        return answer


class Matcher:
    """A compiled subscription of the processor `own`, whose signals it leaves out."""

    def __init__(self, subscription: Subscription, own: str) -> None:
        self._events = NameSet(subscription.events)
        self._resources = NameSet(subscription.resources)
        self._samples = NameSet(subscription.samples)
        self._own = own

    def matches(self, signal: Signal) -> bool:
        """Whether the processor reads a signal."""
        if isinstance(signal, Event):
            is_read = signal.type in self._events
        elif isinstance(signal, Resource):
            is_read = signal.kind in self._resources
        else:
            is_read = signal.metric in self._samples
        return is_read and signal.origin != self._own
