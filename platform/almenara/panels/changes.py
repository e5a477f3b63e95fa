"""What became of resources: their transitions, and how two moments differ."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import ResourceQuery
from almenara.panels.data_view import select_resources
from almenara.panels.filters import matches_pattern
from almenara.panels.first_readings import find_first_readings
from almenara.panels.formats import format_value
from almenara.panels.past import find_recorder
from almenara.panels.view import View
from almenara.signals import Resource, Severity
from almenara.state.samples import Key
from almenara.units import DAY, HOUR, MINUTE

COMPARED_FIELDS: Final[Mapping[str, str]] = {
    "version": "version", "image": "image", "images": "images", "desired": "replicas",
    "replicas": "replicas", "node": "node", "revision": "revision", "restarts": "restarts",
    "role": "role", "models": "models", "leader": "leader",
}  # fmt: skip
"""Fields of the state whose change matters, and what they are called."""
SPANS: Final = (10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY)
"""Lengths of time in which a transition is looked for, one after the other."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How a resource differs between two moments."""

    kind: str
    namespace: str
    name: str
    what: str
    """`created`, `deleted`, or the name of a field."""
    before: Any = None
    after: Any = None
    severity: Severity = Severity.INFO
    """That of the resource at the later moment."""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the status of a resource."""

    time: int
    """Microseconds since the epoch."""
    resource: Resource
    before: str
    """The status before; empty for a resource that was created."""


def compare_resources(
    earlier: Sequence[Resource], later: Sequence[Resource]
) -> Iterator[Difference]:
    """Yield how resources differ, by kind, namespace and name."""
    old = {resource.key: resource for resource in earlier if not resource.deleted}
    new = {resource.key: resource for resource in later if not resource.deleted}
    for key in sorted(old.keys() | new.keys()):
        kind, namespace, name = key
        before, after = old.get(key), new.get(key)
        if before is after:
            continue
        for what, left, right in _compare(before, after):
            yield Difference(
                kind=kind, namespace=namespace, name=name, what=what, before=left, after=right,
                severity=Severity.INFO if after is None else after.severity,
            )  # fmt: skip


def _compare(before: Resource | None, after: Resource | None) -> Iterator[tuple[str, Any, Any]]:
    if before is None or after is None:
        if after is not None:
            yield "created", None, after.status
        if before is not None:
            yield "deleted", before.status, None
        return
    if before.status != after.status:
        yield "status", before.status, after.status
    # A workload has both: the images of all containers, and that of the first one.
    has_several = any(_count_images(each) > 1 for each in (before, after))
    skipped = "image" if has_several or "image" not in after.state else "images"
    for field, name in COMPARED_FIELDS.items():
        left, right = before.state.get(field), after.state.get(field)
        if left != right and field != skipped:
            yield name, left, right


def _count_images(resource: Resource) -> int:
    images = resource.state.get("images")
    return len(images) if isinstance(images, list | tuple) else 0


async def find_differences(
    view: View, since: int, until: int, kind: str = "", namespace: str = ""
) -> tuple[list[Difference], str]:
    """Return the visible differences, and why there are none where the past is not stored.

    What a source read first in between existed before: it is compared with that reading. Raises
    `Unavailable`.
    """
    earlier, later = await view.resources.at(since), await view.resources.at(until)
    if earlier is None or later is None:
        return [], "The state of resources is not stored for this time."
    query = ResourceQuery(kind=kind or ">", namespace=namespace)
    new = select_resources(msgspec.structs.replace(view, resources=later), query)
    first = await find_first_readings(view, since, until, earlier, new)
    old = select_resources(msgspec.structs.replace(view, resources=earlier), query)
    old += [
        resource
        for resource in first.values()
        if view.scope.permits(resource) and _matches(resource, query)
    ]
    return list(compare_resources(old, new)), ""


def _matches(resource: Resource, query: ResourceQuery) -> bool:
    return matches_pattern(query.kind, resource.kind) and matches_pattern(
        query.namespace, resource.namespace
    )


def describe_value(value: Any) -> str:
    """Return a value as a cell of the page shows it: those of a list or a map with commas."""
    if isinstance(value, Mapping):
        value = [f"{key} {each}" for key, each in sorted(value.items())]
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return format_value(value, "text")


async def read_transitions(view: View, since: int, until: int) -> AsyncIterator[Transition]:
    """Yield the visible changes of status after one moment and up to another, oldest first.

    Raises `Unavailable`. Nothing where the stored past does not reach back to the first moment.
    """
    start = await view.resources.at(since)
    if start is None:
        return
    statuses: dict[Key, str] = {
        resource.key: resource.status for resource in start.all() if not resource.deleted
    }
    for time, resource in await find_recorder(view).read_changes(since, until):
        if not view.scope.permits(resource):
            continue
        before = statuses.pop(resource.key, "")
        if not resource.deleted:
            statuses[resource.key] = resource.status
        if before != resource.status or resource.deleted:
            yield Transition(time=time, resource=resource, before=before)


async def find_transition(view: View, moment: int, *, forward: bool, end: int) -> int | None:
    """Return the time of the next transition after a moment, or of the last before it.

    `end` is how far to look: now, or the start of the stored past. Raises `Unavailable`.
    """
    for span in SPANS:
        if forward:
            since, until = moment, min(moment + span, end)
        else:
            since, until = max(moment - span, end), moment - 1
        if since < until:
            last = None
            async for transition in read_transitions(view, since, until):
                if forward:
                    return transition.time
                last = transition.time
            if last is not None:
                return last
        if (until >= end) if forward else (since <= end):
            return None
    return None
