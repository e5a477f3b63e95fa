"""What works for a deliberation besides its agents: Ray jobs, pods and the context of its story.

They belong to a story or task by the correlation of their events, by its id as a word of the
entrypoint of a job or the value of a label, and pods also as the node on which such a job runs.
Where a job names the task, those that name only the story are those of other tasks.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import DataView, ResourceQuery
from almenara.signals import Event, Resource
from almenara_agents.describe import seconds_since
from almenara_agents.mapping import Mapper

MAX_RELATED: Final = 12
READ_EVENTS: Final = 60
"""Events of a story among which related ones are searched."""
MAX_COMPANIONS: Final = 6
MAX_CARDS: Final = 4
MAX_ENTRYPOINT: Final = 200
MAX_RESOURCES: Final = 20_000
JOB_KINDS: Final[Mapping[str, str]] = {"ray.job": "Ray job", "ray.rayjob": "RayJob"}
POD: Final = "kubernetes.pod"
NODE: Final = "kubernetes.node"
CONTEXT: Final = re.compile(r"(?i)(?:.*[._])?(?:context|decision)(?:[._].*)?", re.DOTALL)
"""Types and subjects of events about the context of a story: `CONTEXT_UPDATED`,
`context.decision.added`."""
TYPES: Final = Mapper([])
"""What is in the lanes of agents already."""

Numbered = tuple[int, Event]


async def find_related(data: DataView, story: str) -> Sequence[Numbered]:
    """What happened to a story besides its deliberations, newest first."""
    events = await data.events({"correlation": story}, limit=READ_EVENTS)
    return [
        (sequence, event)
        for sequence, event in events
        if TYPES.find_rule(event.type) is None and not event.type.startswith("agents.")
    ]


async def describe_companions(
    data: DataView, story: str, task: str, related: Sequence[Numbered]
) -> tuple[list[dict[str, Any]], Sequence[Numbered]]:
    """The lanes of jobs, pods and context; and the related events that are in none of them."""
    lanes = []
    companions = find_companions(data, story, task)
    pods = {each.name: each for title, each in companions if title == "Pod"}
    for title, resource in companions:
        events = await data.events({"subject": resource.name}, limit=MAX_CARDS)
        lanes.append(
            {
                **describe_companion(title, resource, events),
                "host": find_host(data, resource, pods),
                "entrypoint": str(resource.state.get("entrypoint") or "")[:MAX_ENTRYPOINT],
            }
        )
    context = [
        each
        for each in related
        if CONTEXT.fullmatch(each[1].type) or CONTEXT.fullmatch(each[1].subject)
    ]
    if context:
        lanes.append(
            {
                "title": "Context", "name": story, "status": "", "severity": "INFO",
                "seconds": None, "reason": "", "events": context[:MAX_CARDS], "host": None,
                "entrypoint": "",
            }
        )  # fmt: skip
    shown = {sequence for lane in lanes for sequence, _ in lane["events"]}
    return lanes, [each for each in related if each[0] not in shown][:MAX_RELATED]


def find_companions(data: DataView, story: str, task: str) -> list[tuple[str, Resource]]:
    """The newest jobs of a task or, without one, of its story; the pods on which they run, and
    those that name the task or story."""
    ids = [each for each in (story, task) if each]
    known = [
        (title, job)
        for kind, title in JOB_KINDS.items()
        for job in data.resources(ResourceQuery(kind=kind, limit=MAX_RESOURCES))
    ]
    jobs = _find_named(known, task) or _find_named(known, story)
    jobs.sort(key=lambda each: _submitted(each[1]), reverse=True)
    jobs = jobs[:MAX_COMPANIONS]
    nodes = {str(job.state.get("node")) for _, job in jobs if job.state.get("node")}
    pods = [
        ("Pod", pod)
        for pod in data.resources(ResourceQuery(kind=POD, limit=MAX_RESOURCES))
        if pod.name in nodes or _is_labeled(pod, ids)
    ]
    return [*jobs, *pods[:MAX_COMPANIONS]]


def find_host(
    data: DataView, resource: Resource, pods: Mapping[str, Resource]
) -> dict[str, str] | None:
    """The node on which a pod runs, or the pod in which a job does."""
    name, is_pod = str(resource.state.get("node") or ""), resource.kind == POD
    # A cluster that has a name is in front of the namespaces of pods, and that of its nodes.
    cluster = resource.namespace.rpartition("/")[0]
    host = data.resource(NODE, cluster, name) if is_pod else pods.get(name)
    if host is None:
        return None
    return {
        "title": "Node" if is_pod else "Pod", "name": host.name, "status": host.status,
        "severity": host.severity.name,
    }  # fmt: skip


def describe_companion(
    title: str, resource: Resource, events: Sequence[Numbered]
) -> dict[str, Any]:
    """The lane of a job or pod."""
    state = resource.state
    seconds = state.get("seconds")
    return {
        "title": title,
        "name": resource.name,
        "status": resource.status,
        "severity": resource.severity.name,
        "seconds": seconds if seconds is not None else seconds_since(state.get("started")),
        "reason": str(state.get("reason") or ""),
        "events": events,
    }


def _find_named(jobs: Sequence[tuple[str, Resource]], name: str) -> list[tuple[str, Resource]]:
    """The jobs of this name, and those with it as a word of their entrypoint."""
    if not name:
        return []
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    return [
        (title, job)
        for title, job in jobs
        if job.name == name or word.search(str(job.state.get("entrypoint", "")))
    ]


def _is_labeled(resource: Resource, ids: Sequence[str]) -> bool:
    labels = resource.state.get("labels")
    return isinstance(labels, dict) and any(value in ids for value in labels.values())


def _submitted(job: Resource) -> int:
    submitted = job.state.get("submitted")
    return submitted if isinstance(submitted, int) else 0
