"""What differs between resources as they were published and as they are, as signals."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from almenara.clock import now
from almenara.hookspecs import Context, ResourceKey
from almenara.signals import Event, Resource, Signal, mark_unknown


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A resource before and after; None where it did not exist yet, or no longer exists."""

    before: Resource | None
    after: Resource | None


Transition = Callable[[Changes], Iterable[Event]]


class Snapshots:
    """Remembers resources as they were published and returns what differs.

    A source that reads everything at once passes each snapshot to `difference`; one that watches
    passes each change to `update` and `remove`. Nothing is returned where only the time differs.

    `transitions` makes the events of a change. It is called for resources that appear or disappear
    as well, but not for the first snapshot: that things exist is no news when a source starts. Give
    the same change the same event id, such as `f"{name}/{after.time}"`, so that a change observed
    twice is one event.

    While the observed system does not answer, publish what `mark_unknown` returns: nothing is
    healthy without an answer. The next answer makes the resources known again. Where only a part
    of a snapshot cannot be read, pass the keys of that part, as `list_keys` returns them, to
    `mark_unknown` and as `unread` to `difference`: no answer is not an answer of nothing.

    Call `restore` at the start of `run`. It forgets what an earlier run has published: since then,
    another replica may have run the source, or the last batch was not stored. So every resource is
    published again, and those that were deleted while the source did not run are reported as
    deleted. `load` adds resources whose last state is known.
    """

    def __init__(self, transitions: Transition | None = None) -> None:
        self._transitions = transitions
        self._known: dict[ResourceKey, Resource] = {}
        self._is_first = True
        self._restored: set[ResourceKey] = set()
        self._last_known: dict[ResourceKey, Resource | None] = {}
        """What is unknown now, as it was before; None for what only an earlier run has read."""

    async def restore(self, context: Context, source: str, kinds: Iterable[str] = ()) -> None:
        """Start over with the resources that the source of this name has published, of `kinds` or
        of all. Their states are not known."""
        self._known.clear()
        self._last_known.clear()
        self._restored.clear()
        self._is_first = True
        for kind in list(kinds) or [""]:
            self._restored.update(await context.known_resources(source, kind))

    def load(self, resources: Iterable[Resource]) -> None:
        """Remember resources as an earlier run published them."""
        self._known.update((resource.key, resource) for resource in resources)

    def get(self, key: ResourceKey) -> Resource | None:
        """Return the resource as it was last published; None if it is unknown."""
        return self._known.get(key)

    def list_keys(self, kind: str) -> list[ResourceKey]:
        """Return the keys of the resources of a kind that are remembered, or that an earlier run
        has published."""
        return [key for key in {**self._known, **dict.fromkeys(self._restored)} if key[0] == kind]

    def update(self, after: Resource) -> Sequence[Signal]:
        """Return the signals to publish of one resource: it and the events of its transition."""
        before = self._known.get(after.key)
        if before is not None and _is_unchanged(before, after):
            return ()
        self._known[after.key] = after
        was_unknown = after.key in self._last_known
        before = self._last_known.pop(after.key, before)
        if was_unknown and (before is None or _is_unchanged(before, after)):
            # It is as it was before it was unknown, or nothing else is known of it.
            return (after,)
        return after, *self._events(before, after)

    def remove(self, key: ResourceKey) -> Sequence[Signal]:
        """Return the signals to publish of a resource that no longer exists."""
        before = self._known.pop(key, None)
        if before is None:
            return ()
        deleted = msgspec.structs.replace(before, deleted=True, time=now())
        return deleted, *self._events(self._last_known.pop(key, before), None)

    def mark_unknown(
        self, reason: str, since: int | None = None, keys: Iterable[ResourceKey] | None = None
    ) -> Sequence[Signal]:
        """Return what is remembered, or only `keys` of it, as unknown, where that is new: for what
        cannot be reached and everything below it.

        `since` is when it was last known, in microseconds. It makes no transition; the next one is
        between the states before and after.
        """
        remembered = [*self._known, *sorted(self._restored - self._known.keys())]
        signals: list[Signal] = []
        for key in remembered if keys is None else keys:
            before = self._known.get(key)
            if before is None and key not in self._restored:
                continue
            kind, namespace, name = key
            bare = Resource(kind=kind, namespace=namespace, name=name)
            self._last_known.setdefault(key, before)
            after = mark_unknown(self._last_known[key] or bare, reason, since)
            if before is None or not _is_unchanged(before, after):
                after = msgspec.structs.replace(after, time=now())
                self._known[key] = after
                signals.append(after)
        return signals

    def difference(
        self, snapshot: Iterable[Resource], unread: Iterable[ResourceKey] = ()
    ) -> Sequence[Signal]:
        """Return the signals to publish of a complete snapshot: each resource that is new or
        differs, each one that is missing, marked as deleted, and the events of their
        transitions. Nothing is returned of those in `unread`, which could not be read."""
        current = {resource.key: resource for resource in snapshot}
        exempt = current.keys() | set(unread)
        missing = [key for key in self._known if key not in exempt]
        signals: list[Signal] = []
        for after in current.values():
            signals += self.update(after)
        for key in missing:
            signals += self.remove(key)
        for kind, namespace, name in sorted(self._restored - exempt - set(missing)):
            signals.append(Resource(kind=kind, namespace=namespace, name=name, deleted=True))
        self._restored.clear()
        self._is_first = False
        return signals

    def _events(self, before: Resource | None, after: Resource | None) -> Iterable[Event]:
        if self._transitions is None or self._is_first or (before is None and after is None):
            return ()
        return self._transitions(Changes(before=before, after=after))


def _is_unchanged(before: Resource, after: Resource) -> bool:
    return (
        before.state == after.state
        and before.status == after.status
        and before.severity == after.severity
        and before.deleted == after.deleted
    )
