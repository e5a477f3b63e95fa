"""The simulated cluster as a source: its objects go the way of real ones, and its pages say that
nothing on them is real."""

import math
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import Context, Line, Publish
from almenara.sdk import NotFound, every, now, sleep
from almenara.signals import Resource, Sample, Severity, Signal
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.manifests import asked_object, written
from almenara_kubernetes.reading import Reading
from almenara_kubernetes.simulated_world import GIB, LINES, SECOND, Change, World
from almenara_kubernetes.watched import BY_KIND, NODES, PODS

CALLED: Final = "simulated"
STEP: Final = 1.0
USAGE_EVERY: Final = 15
INCIDENT_EVERY: Final = 9
HISTORY: Final = 80
"""Samples of each pod from before the start, so that charts have something to show."""
WITH_HISTORY: Final = 400
"""Pods up to which there are such samples; more would take long to write."""
BATCH: Final = 500
RUNNING: Final[dict[str, World]] = {}
"""The world that the source lets happen, for those who want to read its objects."""


class SimulatedCluster:
    """Publishes a made-up cluster of so many pods, and lets things happen in it."""

    name = "kubernetes"
    rate_limit = 5_000

    def __init__(self, pods: int, context: Context, seed: int = 0) -> None:
        self.pods = pods
        self.context = context
        self.seed = seed

    async def run(self, publish: Publish) -> None:
        """Goes on until cancelled."""
        world = RUNNING[CALLED] = World(self.pods, now, self.seed)
        try:
            await self._go_on(world, publish)
        finally:
            RUNNING.pop(CALLED, None)

    async def _go_on(self, world: World, publish: Publish) -> None:
        reading = Reading(source="kubernetes/simulated")
        # What an earlier run told is told as gone where it is not here now.
        before = await self.context.known_resources(self.name)
        reading.adopt(Resource(kind=it[0], namespace=it[1], name=it[2]) for it in before)
        await _publish(publish, [_label(), *_listed(world, reading)])
        await _publish(publish, _history(world))
        world.begin(world.rollout(world.kept["council/council-qa"], fails=False))
        world.begin(world.rollout(world.kept["planning/story-board"], fails=True))
        world.begin(world.crash_loop(world.kept["context/context-indexer"]))
        world.begin(world.job())
        steps = 0
        async for _ in every(STEP):
            steps += 1
            if steps % INCIDENT_EVERY == 0:
                world.incident()
            signals = [it for change in world.step() for it in _read(reading, change)]
            if steps % (USAGE_EVERY if self.pods <= WITH_HISTORY else 4 * USAGE_EVERY) == 1:
                signals += _usage(world, now())
            await _publish(publish, signals)


async def _publish(publish: Publish, signals: Iterable[Signal]) -> None:
    waiting: list[Signal] = []
    for it in signals:
        waiting.append(it)
        if len(waiting) >= BATCH:
            await publish(waiting)
            waiting = []
    if waiting:
        await publish(waiting)


def _label() -> Resource:
    return Resource(
        kind="kubernetes.cluster", name=CALLED, status=CALLED, severity=Severity.WARN,
        state={"simulated": True, "reason": "Nothing here is real.", "since": now()},
    )  # fmt: skip


def decoded(watched: WatchedKind, tree: Mapping[str, Any]) -> Any:
    """An object as it would come from an API server."""
    return watched.decode(msgspec.json.encode(tree))


def _listed(world: World, reading: Reading) -> Iterable[Signal]:
    for kind, watched in BY_KIND.items():
        trees = world.objects.get(kind, {}).values()
        yield from reading.listed(watched, "", [decoded(watched, it) for it in trees])


def _read(reading: Reading, change: Change) -> Sequence[Signal]:
    it = decoded(change.watched, change.tree)
    if change.deleted:
        return reading.deleted(change.watched, it)
    return reading.changed(change.watched, it)


def _history(world: World) -> Iterable[Signal]:
    if len(world.objects[PODS.kind]) > WITH_HISTORY:
        return
    for back in range(HISTORY, 0, -1):
        yield from _usage(world, now() - back * USAGE_EVERY * SECOND)


def _usage(world: World, moment: int) -> list[Signal]:
    """What pods and nodes use: a load that comes and goes, a little different for each."""
    used: dict[str, list[float]] = {}
    signals: list[Signal] = []
    for (namespace, name), tree in world.objects[PODS.kind].items():
        if tree["status"]["phase"] != "Running":
            continue
        asked = tree["spec"]["containers"][0]["resources"]["requests"]
        cores = float(asked["cpu"].removesuffix("m")) / 1000
        memory = float(asked["memory"].removesuffix("Mi")) * GIB / 1024
        own = random.Random(name).random()  # nosec B311 # makes up a cluster
        wave = math.sin(moment / SECOND / (180 + 300 * own) + own * 6.3)
        noise = random.Random(f"{name}/{moment // SECOND}").uniform(-0.08, 0.08)  # nosec B311 # makes up a cluster
        cpu = max(cores * (0.45 + 0.4 * own + 0.35 * wave + noise), 0.002)
        held = memory * (0.55 + 0.3 * own + 0.08 * wave + noise / 4)
        for metric, value, unit in (("cpu", cpu, ""), ("memory", held, "By")):
            signals.append(Sample(kind=PODS.kind, namespace=namespace, name=name, metric=metric, value=value, unit=unit, time=moment))  # fmt: skip
        sums = used.setdefault(tree["spec"]["nodeName"], [0.0, 0.0])
        sums[0] += cpu
        sums[1] += held
    for name, (cpu, held) in used.items():
        signals.append(Sample(kind=NODES.kind, name=name, metric="cpu", value=cpu, time=moment))
        signals.append(Sample(kind=NODES.kind, name=name, metric="memory", value=held, unit="By", time=moment))  # fmt: skip
    return signals


class SimulatedManifests:
    """The objects of the simulated cluster as YAML."""

    name = "manifest"

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """The lines of one object, once. Raises `NotFound`."""
        watched, name = asked_object(asked)
        world = RUNNING.get(CALLED)
        if world is None:
            raise NotFound("the simulated cluster does not run in this process")
        tree = world.objects.get(watched.kind, {}).get((asked.get("namespace", ""), name))
        if tree is None:
            raise NotFound(f"there is no {watched.api_kind} {name} any more")
        # In one call, since the source changes it meanwhile.
        yield written(
            msgspec.json.encode(
                {"apiVersion": watched.api_version, "kind": watched.api_kind, **tree}
            )
        )


class SimulatedLogs:
    """Made-up lines of a made-up pod."""

    name = "pod-logs"

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """Some lines from before, then one now and then, until closed."""
        pod = asked.get("name", "")
        if not pod:
            raise NotFound("choose a pod: its namespace and its name")
        containers = _containers(asked.get("namespace", ""), pod)
        if (chosen := asked.get("container", "")) and containers:
            if chosen not in containers:
                raise NotFound(f"{pod} has no container {chosen[:80]!r}")
            containers = []
        previous = asked.get("previous", "") not in ("", "no")
        draw = random.Random(f"{pod}/{previous}")  # nosec B311 # makes up a cluster
        ended = now() - 300 * SECOND if previous else now()
        yield [_line(draw, containers, ended - back * 2 * SECOND) for back in range(40, 0, -1)]
        while not previous:
            await sleep(draw.uniform(0.3, 2.5))
            yield [_line(draw, containers, now())]


def _containers(namespace: str, pod: str) -> Sequence[str]:
    world = RUNNING.get(CALLED)
    tree = world.objects[PODS.kind].get((namespace, pod)) if world is not None else None
    if tree is None:
        return []
    spec = tree["spec"]
    beside = [it for it in spec["initContainers"] if it.get("restartPolicy") == "Always"]
    return [it["name"] for it in (*spec["containers"], *beside)]


def _line(draw: random.Random, containers: Sequence[str], moment: int) -> Line:
    text = draw.choice(LINES).format(task=f"US-{draw.randint(100, 190)}")
    severity = next(
        (it for it in (Severity.ERROR, Severity.WARN) if text.startswith(it.name)), Severity.INFO
    )
    source = draw.choice(containers) if len(containers) > 1 else ""
    return Line(text=text, time=moment, severity=severity, source=source)
