"""The difference between two snapshots of resources: what to publish of them."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from almenara.clock import now
from almenara.signals import Event, Resource, Signal

Key = tuple[str, str, str]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A resource before and after; None where it was not, or is not any more."""

    before: Resource | None
    after: Resource | None


Transition = Callable[[Changes], Iterable[Event]]


class Snapshots:
    """Remembers the last snapshot of resources and says what is different in the next.

    `transitions` makes the events of a change; it is also asked about what appeared or went, but
    not about the first snapshot of all: that things exist is no news when a source starts. Keep
    the ids of those events the same for the same change, such as `f"{name}/{after.time}"`, so that
    a change seen twice is one event.
    """

    def __init__(self, transitions: Transition | None = None) -> None:
        self._transitions = transitions
        self._known: dict[Key, Resource] | None = None

    def difference(self, snapshot: Iterable[Resource]) -> Sequence[Signal]:
        """The signals to publish: each resource that is new or differs in more than its time, each
        that is gone, marked so, and the events of their transitions."""
        found = {it.key: it for it in snapshot}
        known, first = self._known or {}, self._known is None
        self._known = found
        signals: list[Signal] = []
        for key, after in found.items():
            before = known.get(key)
            if before is not None and _same(before, after):
                found[key] = before
                continue
            signals.append(after)
            if not first:
                signals.extend(self._told(before, after))
        for key, before in known.items():
            if key not in found:
                signals.append(msgspec.structs.replace(before, gone=True, time=now()))
                signals.extend(self._told(before, None))
        return signals

    def _told(self, before: Resource | None, after: Resource | None) -> Iterable[Event]:
        if self._transitions is None:
            return ()
        return self._transitions(Changes(before=before, after=after))


def _same(before: Resource, after: Resource) -> bool:
    return msgspec.structs.replace(after, time=before.time) == before
