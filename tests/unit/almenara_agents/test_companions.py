"""Jobs, pods and context of a deliberation are in the lanes of its room."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from almenara.hookspecs import ResourceQuery
from almenara.signals import Event, Resource, Severity, Signal
from almenara.testing import render_panel
from almenara_agents.companions import (
    describe_companions,
    find_companions,
    find_host,
    find_related,
)

pytestmark = pytest.mark.anyio

STORY, TASK = "US-1", "task-US-1-build-001"


def job(name: str, entrypoint: str, **state: Any) -> Resource:
    state = {"entrypoint": entrypoint, "submitted": 1, **state}
    return Resource(kind="ray.job", namespace="c", name=name, status="RUNNING", state=state)


def pod(name: str, node: str = "", **labels: str) -> Resource:
    state = {"labels": labels, "node": node}
    return Resource(kind="kubernetes.pod", namespace="n", name=name, status="Running", state=state)


RESOURCES = [
    job("by-story", f"python -m run --story {STORY} --role DEV", submitted=3, node="worker-0"),
    job("by-task", f"run {STORY} {TASK}", submitted=2, node="worker-1"),
    job(TASK, "run"),
    job("other-story", "python -m run --story US-10"),
    job("other-prefix", "python -m run --story XUS-1"),
    pod("worker-0"),
    pod("worker-1", node="node-1"),
    Resource(kind="kubernetes.node", name="node-1", status="Ready"),
    Resource(kind="kubernetes.node", namespace="eu", name="node-1", status="NotReady"),
    pod("labeled", story=STORY),
    pod("other", story="US-10"),
]


def event(kind: str, subject: str, correlation: str = STORY) -> Event:
    return Event(
        id=f"{kind}/{subject}", source="s", type=kind, subject=subject, correlation=correlation,
        severity=Severity.INFO, time=1,
    )  # fmt: skip


EVENTS = [
    event("ray.job.submitted", "by-story", "c/by-story"),
    event("CONTEXT_UPDATED", "context.updated"),
    event("planning.plan.approved", STORY),
    event("orchestration.deliberation.started", STORY),
    event("agents.agent.stuck", "ada"),
]


class Data:
    """A data view from which some kinds of resources are hidden."""

    def __init__(self, *hidden: str) -> None:
        self.hidden = hidden

    def resources(self, query: ResourceQuery) -> list[Resource]:
        return [
            each for each in RESOURCES if each.kind == query.kind and each.kind not in self.hidden
        ]

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        key = kind, namespace, name
        return next((each for each in RESOURCES if each.key == key), None)

    async def events(self, filter: Mapping[str, str], limit: int) -> list[tuple[int, Event]]:  # noqa: A002
        ((name, value),) = filter.items()
        return [
            (sequence, each) for sequence, each in enumerate(EVENTS) if getattr(each, name) == value
        ][:limit]


async def describe(
    data: Data, task: str = TASK
) -> tuple[list[tuple[str, str, str, list[str]]], list[str]]:
    related = await find_related(data, STORY)  # type: ignore[arg-type]
    lanes, others = await describe_companions(data, STORY, task, related)  # type: ignore[arg-type]
    shown = [
        (
            lane["title"], lane["name"], lane["host"]["name"] if lane["host"] else "",
            [event.type for _, event in lane["events"]],
        )
        for lane in lanes
    ]  # fmt: skip
    return shown, [event.type for _, event in others]


async def test_jobs_of_a_task_their_pods_and_nodes_have_lanes() -> None:
    assert await describe(Data()) == (
        [
            ("Ray job", "by-task", "worker-1", []),
            ("Ray job", TASK, "", []),
            ("Pod", "worker-1", "node-1", []),
            ("Pod", "labeled", "", []),
            ("Context", STORY, "", ["CONTEXT_UPDATED"]),
        ],
        ["planning.plan.approved"],
    )


async def test_jobs_of_a_story_have_lanes_where_none_names_the_task() -> None:
    lanes, related = await describe(Data(), "task-other")
    assert lanes == [
        ("Ray job", "by-story", "worker-0", ["ray.job.submitted"]),
        ("Ray job", "by-task", "worker-1", []),
        ("Pod", "worker-0", "", []),
        ("Pod", "worker-1", "node-1", []),
        ("Pod", "labeled", "", []),
        ("Context", STORY, "", ["CONTEXT_UPDATED"]),
    ]
    assert related == ["planning.plan.approved"]


async def test_hidden_jobs_lead_to_no_pod() -> None:
    lanes, _ = await describe(Data("ray.job"))
    assert [name for _, name, _, _ in lanes] == ["labeled", STORY]


def test_host_of_a_pod_is_the_node_of_its_cluster() -> None:
    worker = pod("worker-1", node="node-1")

    hosts = [
        find_host(Data(), msgspec.structs.replace(worker, namespace=namespace), {})  # type: ignore[arg-type]
        for namespace in ("n", "eu/n", "us/n")
    ]

    assert [host and host["status"] for host in hosts] == ["Ready", "NotReady", None]


@pytest.mark.parametrize("story", ["US-1.*", "(", "US-1|x", "\\"])
def test_hostile_id_matches_nothing_but_itself(story: str) -> None:
    assert find_companions(Data(), story, "") == []  # type: ignore[arg-type]


async def test_room_displays_lanes_of_jobs_and_context() -> None:
    hostile = "<script>alert(1)</script>"
    council = Resource(
        kind="agents.council", name="DEV", state={"members": ["ada"], "active": [TASK]},
        origin="agents",
    )  # fmt: skip
    talk = Resource(
        kind="agents.deliberation", name=TASK, status="running", origin="agents",
        state={"members": ["ada"], "story": STORY, "role": "DEV"},
    )  # fmt: skip
    failed = job(hostile, f"run {STORY}", reason=f"exit code 1 {hostile}")
    signals: list[Signal] = [council, talk, failed, EVENTS[1]]
    html = await render_panel(
        "agents", "room", signals, query={"council": "DEV"}, settings={"enabled": True}
    )
    assert html.count("agents-companion") == 2
    assert "exit code 1" in html
    assert "CONTEXT_UPDATED</a>" in html
    assert hostile not in html
