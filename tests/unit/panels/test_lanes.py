"""A story in lanes: which lane an event belongs to, what lasts, causes, and groups of marks."""

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from almenara.bus import Record
from almenara.panels.changes import Transition
from almenara.panels.lane_chart import NEAREST, Scale, draw_lanes, group_marks
from almenara.panels.lanes import (
    MAX_LANES,
    Fact,
    Lane,
    add_statuses,
    arrange_lanes,
    find_causes,
    find_related,
    read_facts,
)
from almenara.signals import Event, Resource, Severity
from almenara.units import SECOND

START = 1_767_225_600_000_000


def make_event(number: int, seconds: float, kind: str = "a.b", **more: Any) -> Record:
    data = more.pop("data", None)
    event = Event(
        id=f"id-{number}", source="s", origin=more.pop("origin", "nats/S"), type=kind,
        time=START + int(seconds * SECOND), correlation="c",
        data=None if data is None else msgspec.Raw(msgspec.json.encode(data)), **more,
    )  # fmt: skip
    return Record(number, event)


def named(*resources: Resource) -> dict[str, list[Resource]]:
    by_name: dict[str, list[Resource]] = {}
    for resource in resources:
        by_name.setdefault(resource.name, []).append(resource)
    return by_name


AGENT = Resource(kind="agents.agent", name="agent-1")
STORY = Resource(kind="agents.story", name="c")
POD = Resource(kind="k.pod", namespace="shop", name="web", state={"node": "n1"})
OTHER_POD = Resource(kind="k.pod", namespace="other", name="web")
NODE = Resource(kind="k.node", name="n1")
FAR = Resource(kind="ray.node", name="n1")


def lanes_of(*records: Record, resources: tuple[Resource, ...] = ()) -> list[Lane]:
    return arrange_lanes(list(read_facts(records, named(*resources), "c")))


def test_event_is_in_the_lane_of_the_resource_that_it_names() -> None:
    lanes = lanes_of(
        make_event(1, 0, data={"payload": {"story_id": "c", "agent_id": "agent-1"}}),
        make_event(2, 1, subject="web", attributes={"namespace": "shop"}),
        make_event(3, 2, data={"story_id": "c"}),
        make_event(4, 3, data="text"),
        make_event(5, 4, data=[1], origin=""),
        resources=(AGENT, STORY, OTHER_POD, POD),
    )
    assert [(lane.kind, lane.title) for lane in lanes] == [
        ("agents.agent", "agent-1"), ("k.pod", "shop/web"), ("agents.story", "c"),
        ("", "nats/S"), ("", "s"),
    ]  # fmt: skip


def test_durations_and_pairs_of_events_are_bars() -> None:
    (lane,) = lanes_of(
        make_event(1, 0, "work.started"),
        make_event(2, 10, "work.completed", severity=Severity.ERROR),
        make_event(3, 20, "call", data={"duration_ms": 1500}),
        make_event(4, 30, "other.completed"),
        make_event(5, 31, "JOB_STARTED"),
        make_event(6, 32, "JOB_FAILED"),
    )
    assert [
        (bar.title, (bar.since - START) / SECOND, (bar.until - START) / SECOND) for bar in lane.bars
    ] == [("work.completed", 0, 10), ("call", 18.5, 20), ("JOB_FAILED", 31, 32)]
    assert lane.bars[0].severity == Severity.ERROR


def test_causes_are_found_by_id_and_by_trace_context() -> None:
    facts = list(
        read_facts(
            [
                make_event(1, 0),
                make_event(2, 1, data={"causation_id": "id-1"}),
                make_event(3, 2, attributes={"causationid": "id-2"}),
                make_event(4, 3, attributes={"traceparent": "00-t-span1-01"}),
                make_event(5, 4, data={"parent_span_id": "span1"}),
                make_event(6, 5, data={"causation_id": "id-6"}),
                make_event(7, 6, data={"causation_id": ["id-1"]}),
            ],
            {},
            "c",
        )
    )
    pairs = [(cause.sequence, effect.sequence) for cause, effect in find_causes(facts)]
    assert pairs == [(1, 2), (2, 3), (4, 5)]


def test_statuses_of_a_resource_are_bars() -> None:
    (lane,) = lanes_of(make_event(1, 0, subject="web"), resources=(POD,))
    ready = msgspec.structs.replace(POD, status="Ready")
    failed = msgspec.structs.replace(POD, status="Failed", severity=Severity.ERROR)
    transitions = [
        Transition(time=START + 10, resource=failed, before="Ready"),
        Transition(
            time=START + 20, resource=msgspec.structs.replace(POD, deleted=True), before="Failed"
        ),
    ]
    add_statuses([lane], transitions, {POD.key: ready}, START, START + 100)
    assert [(bar.title, bar.since - START, bar.until - START) for bar in lane.bars] == [
        ("Ready", 0, 10), ("Failed", 10, 20),
    ]  # fmt: skip


def test_resources_that_those_of_a_story_refer_to_have_lanes() -> None:
    lanes = lanes_of(make_event(1, 0, subject="web"), resources=(POD,))
    known = {each.key: each for each in (POD, NODE, FAR, OTHER_POD)}
    related = find_related(lanes, known, named(POD, NODE, FAR, OTHER_POD))
    assert [lane.key for lane in related] == [NODE.key]


def test_many_lanes_are_joined_by_their_kind() -> None:
    pods = tuple(Resource(kind="k.pod", name=f"p{number}") for number in range(200))
    lanes = lanes_of(
        *(make_event(number, number, subject=f"p{number}") for number in range(200)),
        resources=pods,
    )
    assert len(lanes) <= MAX_LANES
    assert sum(len(lane.facts) for lane in lanes) == 200
    assert "other k.pod" in [lane.title for lane in lanes]


@settings(max_examples=50, deadline=None)
@given(times=st.lists(st.integers(0, 10**9), min_size=1, max_size=300))
def test_groups_have_every_event_once_and_do_not_overlap(times: list[int]) -> None:
    records = [make_event(number, time / SECOND) for number, time in enumerate(sorted(times), 1)]
    facts = list(read_facts(records, {}, "c"))
    marks = group_marks(facts, Scale(facts[0].event.time, facts[-1].event.time))
    assert sum(mark.count for mark in marks) == len(times)
    starts = [Scale(START, START + 10**9)(mark.first.event.time) for mark in marks]
    assert starts == sorted(starts)
    assert len(marks) <= 1200 / NEAREST
    places = sorted((mark.x, 9 if mark.count > 1 else 6) for mark in marks)
    assert all(
        after - before >= width + next_width - 0.001
        for (before, width), (after, next_width) in itertools.pairwise(places)
    )


HOSTILE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-(2**63), 2**63), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                ("duration", "duration_ms", "causation_id", "parent_span_id", "payload", "x")
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(data=HOSTILE, trace=st.text(max_size=60), kind=st.text(max_size=40), time=st.integers())
def test_any_payload_can_be_drawn(data: Any, trace: str, kind: str, time: int) -> None:
    event = Event(
        id="1", source="s", type=kind, time=max(min(time, 2**62), -(2**62)), data=data,
        attributes={"traceparent": trace},
    )  # fmt: skip
    facts: list[Fact] = list(read_facts([Record(1, event)], named(POD), "c"))
    lanes = arrange_lanes(facts)
    picture = draw_lanes(
        lanes, find_causes(facts), event.time, event.time + SECOND, lambda first, last: "/"
    )
    assert len(picture["lanes"]) == 1
