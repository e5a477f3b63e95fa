"""The difference between two snapshots of resources, as the signals to publish."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from almenara.clock import now
from almenara.hookspecs import Context, ResourceKey
from almenara.signals import Event, Resource, Signal


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A resource before and after; None where it did not exist yet, or no longer exists."""

    before: Resource | None
    after: Resource | None


Transition = Callable[[Changes], Iterable[Event]]


class Snapshots:
    """Remembers the last snapshot of resources and returns what differs in the next one.

    `transitions` makes the events of a change. It is called for resources that appear or disappear
    as well, but not for the first snapshot: that things exist is no news when a source starts. Give
    the same change the same event id, such as `f"{name}/{after.time}"`, so that a change observed
    twice is one event.

    A snapshot lives as long as the process. `restore` adds what earlier runs have published, so
    that resources which were deleted while the source did not run are reported as deleted.
    """

    def __init__(self, transitions: Transition | None = None) -> None:
        self._transitions = transitions
        self._known: dict[ResourceKey, Resource] = {}
        self._is_first = True
        self._restored: set[ResourceKey] = set()

    async def restore(self, context: Context, source: str, kinds: Iterable[str] = ()) -> None:
        """Load the resources that the source of this name has published, of `kinds` or of all."""
        for kind in list(kinds) or [""]:
            self._restored.update(await context.known_resources(source, kind))

    def difference(self, snapshot: Iterable[Resource]) -> Sequence[Signal]:
        """Return the signals to publish: each resource that is new or differs in more than its
        time, each one that is missing, marked as deleted, and the events of their transitions."""
        current = {resource.key: resource for resource in snapshot}
        signals: list[Signal] = []
        for key, after in current.items():
            before = self._known.get(key)
            if before is not None and _is_unchanged(before, after):
                current[key] = before
                continue
            signals.append(after)
            if not self._is_first:
                signals.extend(self._events(before, after))
        for key, before in self._known.items():
            if key not in current:
                signals.append(msgspec.structs.replace(before, deleted=True, time=now()))
                signals.extend(self._events(before, None))
        for kind, namespace, name in sorted(self._restored - current.keys() - self._known.keys()):
            signals.append(Resource(kind=kind, namespace=namespace, name=name, deleted=True))
        self._restored.clear()
        self._known, self._is_first = current, False
        return signals

    def _events(self, before: Resource | None, after: Resource | None) -> Iterable[Event]:
        if self._transitions is None:
            return ()
        return self._transitions(Changes(before=before, after=after))


def _is_unchanged(before: Resource, after: Resource) -> bool:
    return msgspec.structs.replace(after, time=before.time) == before
