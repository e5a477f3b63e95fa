"""A story in lanes: events by the resource or origin they are about, with bars for what lasts.

What an event is about is found by name: its subject, or a field of its payload that names a visible
resource. Bars are durations in a payload, pairs of events such as `started` and `completed`, and
the statuses of the resources. Causes are the `causation_id` of an event and its trace context.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.bus import Record
from almenara.panels.changes import Transition
from almenara.panels.event_rows import MAX_DECODED
from almenara.signals import Event, Resource, Severity
from almenara.state.samples import Key
from almenara.units import MILLISECOND, SECOND

LONGEST_NAME: Final = 200
MAX_FIELDS: Final = 40
"""Fields of a payload that are compared with names of resources."""
MAX_LANES: Final = 40
MAX_RELATED: Final = 12
"""Lanes of resources that no event is about, and that those of the story refer to."""
MAX_CAUSES: Final = 200
STARTS: Final = frozenset(("started", "start", "created", "dispatched", "submitted", "opened"))
ENDS: Final = frozenset((
    "completed", "complete", "failed", "finished", "ended", "end", "done", "succeeded", "stopped",
    "deleted", "cancelled", "closed",
))  # fmt: skip
"""Last words of the types of events that end what the same type with a word of `STARTS` began."""
WORDS: Final = re.compile(r"[._/-]")
CAUSE_FIELDS: Final = ("causation_id", "causationid", "causationId")

LaneKey = tuple[str, str, str]
"""Kind, namespace and name of a resource, or an origin with two empty texts."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """An event, with what its payload says about its place in the story."""

    sequence: int
    event: Event
    lane: LaneKey
    cause: str = ""
    """The id of the event that caused it."""
    span: str = ""
    parent: str = ""
    duration: int = 0
    """Microseconds until the time of the event."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lasts. Times are microseconds since the epoch."""

    since: int
    until: int
    title: str
    severity: Severity = Severity.INFO
    sequence: int = 0
    """The event that ends it; 0 for the status of a resource."""
    is_status: bool = False


class Lane(msgspec.Struct, kw_only=True):
    """What happened to one resource, or in one origin."""

    key: LaneKey
    facts: list[Fact] = []
    bars: list[Bar] = []
    is_related: bool = False
    """Whether it is a resource that others refer to, and no event is about."""

    @property
    def title(self) -> str:
        """The name, with the namespace in front."""
        kind, namespace, name = self.key
        return f"{namespace}/{name}" if namespace else name or kind

    @property
    def kind(self) -> str:
        """The kind of the resource; empty for an origin."""
        return self.key[0] if self.key[2] else ""


def read_facts(
    records: Sequence[Record], resources: Mapping[str, Sequence[Resource]], correlation: str
) -> Iterator[Fact]:
    """Yield the events of records, each with its lane.

    `resources` are the visible ones by name. The resource that the whole story is about has a lane
    only for events that name no other.
    """
    for record in records:
        if isinstance(record.signal, Event):
            yield _read_fact(record.sequence, record.signal, resources, correlation)


def _read_fact(
    sequence: int, event: Event, resources: Mapping[str, Sequence[Resource]], correlation: str
) -> Fact:
    fields = _payload_fields(event)
    names = [event.subject, *(value for value in fields.values() if isinstance(value, str))]
    lane = _find_lane(event, names[:MAX_FIELDS], resources, correlation)
    cause = next(
        (
            text
            for name in CAUSE_FIELDS
            if (text := event.attributes.get(name) or fields.get(name)) and isinstance(text, str)
        ),
        "",
    )
    _, _, context = event.attributes.get("traceparent", "").partition("-")
    parts = context.split("-")
    parent = fields.get("parent_span_id")
    return Fact(
        sequence=sequence,
        event=event,
        lane=lane,
        cause=cause[:LONGEST_NAME],
        span=parts[1] if len(parts) > 1 else "",
        parent=parent if isinstance(parent, str) else "",
        duration=_read_duration(fields),
    )


def _payload_fields(event: Event) -> dict[str, Any]:
    """Return the fields of a payload, and of the `payload` or `data` inside it."""
    if not isinstance(event.data, msgspec.Raw):
        return event.data if isinstance(event.data, dict) else {}
    encoded = memoryview(event.data)
    if encoded.nbytes > MAX_DECODED:
        return {}
    try:
        data = msgspec.json.decode(encoded)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    for name in ("payload", "data"):
        if isinstance(inner := data.get(name), dict):
            data = {**data, **inner}
    return data


def _find_lane(
    event: Event,
    names: Sequence[str],
    resources: Mapping[str, Sequence[Resource]],
    correlation: str,
) -> LaneKey:
    namespace = event.attributes.get("namespace", "")
    whole: LaneKey | None = None
    for name in names:
        if not name or len(name) > LONGEST_NAME:
            continue
        matches = resources.get(name, ())
        if not matches:
            continue
        # The same name may exist in several namespaces: the event's own counts.
        best = next((each for each in matches if each.namespace == namespace), matches[0])
        if name != correlation:
            return best.key
        whole = whole or best.key
    return whole or (event.origin or event.source, "", "")


def _read_duration(fields: Mapping[str, Any]) -> int:
    for name, unit in (
        ("duration_ms", MILLISECOND), ("duration", SECOND), ("duration_seconds", SECOND),
    ):  # fmt: skip
        value = fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**9:
            return int(value * unit)
    return 0


def arrange_lanes(facts: Sequence[Fact]) -> list[Lane]:
    """Return the lanes in the order of their first event, each with its bars.

    Beyond `MAX_LANES`, those with the fewest events are joined by their kind.
    """
    by_key: dict[LaneKey, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_key[fact.lane].append(fact)
    if len(by_key) > MAX_LANES:
        by_key = _join_lanes(by_key)
    lanes = [Lane(key=key, facts=own, bars=pair_events(own)) for key, own in by_key.items()]
    return sorted(lanes, key=lambda lane: lane.facts[0].event.time)


def _join_lanes(by_key: Mapping[LaneKey, list[Fact]]) -> dict[LaneKey, list[Fact]]:
    busiest = sorted(by_key, key=lambda key: -len(by_key[key]))[: MAX_LANES // 2]
    joined: dict[LaneKey, list[Fact]] = defaultdict(list)
    for key, facts in by_key.items():
        target = key if key in busiest or not key[2] else (f"other {key[0]}", "", "")
        joined[target] += facts
    for facts in joined.values():
        facts.sort(key=lambda fact: fact.event.time)
    return joined


def pair_events(facts: Sequence[Fact]) -> list[Bar]:
    """Return the bars of a lane: durations of events, and events that end what another began."""
    bars = []
    open_facts: dict[str, Fact] = {}
    for fact in facts:
        event = fact.event
        stem, last = _split_type(event.type)
        if fact.duration:
            bars.append(_make_bar(fact, event.time - fact.duration))
        elif last in ENDS and (start := open_facts.pop(stem, None)) is not None:
            bars.append(_make_bar(fact, start.event.time))
        if last in STARTS:
            open_facts[stem] = fact
    return bars


def _split_type(kind: str) -> tuple[str, str]:
    """Return a type without its last word, and that word in lower case."""
    last = WORDS.split(kind)[-1]
    return kind.removesuffix(last), last.lower()


def _make_bar(fact: Fact, since: int) -> Bar:
    return Bar(
        since=since, until=fact.event.time, title=fact.event.type, severity=fact.event.severity,
        sequence=fact.sequence,
    )  # fmt: skip


def add_statuses(
    lanes: Sequence[Lane],
    transitions: Sequence[Transition],
    known: Mapping[Key, Resource],
    since: int,
    until: int,
) -> None:
    """Add the statuses of the resources of lanes as bars.

    `known` are the resources as of `since`, and `transitions` what became of them until `until`.
    """
    by_key: dict[Key, list[Transition]] = defaultdict(list)
    for transition in transitions:
        by_key[transition.resource.key].append(transition)
    for lane in lanes:
        if not lane.kind:
            continue
        start = known.get(lane.key)
        current = None if start is None or start.deleted else start
        begin = since
        for transition in [*by_key.get(lane.key, ()), None]:
            end = until if transition is None else transition.time
            if current is not None and current.status and end > begin:
                lane.bars.append(
                    Bar(since=begin, until=end, title=current.status, severity=current.severity,
                        is_status=True)
                )  # fmt: skip
            if transition is not None:
                begin = end
                current = None if transition.resource.deleted else transition.resource


def find_related(
    lanes: Sequence[Lane],
    known: Mapping[Key, Resource],
    resources: Mapping[str, Sequence[Resource]],
) -> list[Lane]:
    """Return lanes of resources that those of the story refer to by name, such as the node of a
    pod, and of those that refer to them in turn."""
    present = {lane.key for lane in lanes}
    prefixes = {key: key[0].partition(".")[0] for key in known}
    related: list[Lane] = []
    queue = [known[lane.key] for lane in lanes if lane.key in known]
    for resource in queue:
        for value in resource.state.values():
            if not isinstance(value, str) or not value or value == resource.name:
                continue
            for other in resources.get(value, ()):
                is_near = prefixes.get(other.key) == resource.kind.partition(".")[0]
                is_same_place = not other.namespace or other.namespace == resource.namespace
                if other.key in present or not is_near or not is_same_place:
                    continue
                present.add(other.key)
                related.append(Lane(key=other.key, is_related=True))
                queue.append(other)
                if len(related) == MAX_RELATED:
                    return related
    return related


def find_causes(facts: Sequence[Fact]) -> list[tuple[Fact, Fact]]:
    """Return cause and effect: by `causation_id`, and by parent and child span."""
    by_id = {fact.event.id: fact for fact in facts}
    by_span = {fact.span: fact for fact in facts if fact.span}
    pairs = []
    for fact in facts:
        cause = by_id.get(fact.cause) if fact.cause else by_span.get(fact.parent)
        if cause is not None and cause is not fact:
            pairs.append((cause, fact))
            if len(pairs) == MAX_CAUSES:
                break
    return pairs
