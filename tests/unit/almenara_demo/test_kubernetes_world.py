"""The simulated Kubernetes cluster: incidents happen, end, and stay readable."""

import msgspec

from almenara.signals import Resource
from almenara.units import SECOND
from almenara_demo.kubernetes_kinds import DEPLOYMENTS, PODS
from almenara_demo.kubernetes_objects import is_ready
from almenara_demo.kubernetes_world import World
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import KINDS

START = 1_800_000_000 * SECOND


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> int:
        return self.time


def test_world_runs_incidents_whose_objects_are_all_readable() -> None:
    clock = Clock()
    world, differ = World(200, clock, seed=1), ClusterDiffer()
    kinds = {kind.api_kind: kind for kind in KINDS}
    statuses: set[str] = set()
    for step in range(1_200):
        clock.time += SECOND
        if step % 9 == 0:
            world.incident()
        for change in world.step():
            kind = kinds[change.kind.kind]
            obj = kind.decode(msgspec.json.encode(change.tree))
            signals = differ.remove(kind, obj) if change.deleted else differ.update(kind, obj)
            statuses |= {signal.status for signal in signals if isinstance(signal, Resource)}

    assert "Malformed" not in statuses
    assert {"CrashLoopBackOff", "OOMKilled", "Running", "Terminating", "NotReady"} <= statuses
    assert len(world.objects[PODS.kind]) >= 200


def test_lost_node_reduces_the_ready_replicas_of_its_workloads() -> None:
    clock = Clock()
    world = World(200, clock, seed=1)

    world.begin(world.node_lost())
    during = count_ready(world)
    assert any(not is_ready(pod) for pod in world.objects[PODS.kind].values())
    clock.time += 90 * SECOND
    list(world.step())

    assert count_ready(world) != during


def count_ready(world: World) -> dict[str, int]:
    """Return the ready replicas of each deployment, which must be its ready pods."""
    ready: dict[str, int] = {}
    for (namespace, name), tree in world.objects[DEPLOYMENTS.kind].items():
        pods = world.pods_of(world.workloads[f"{namespace}/{name}"])
        ready[name] = sum(is_ready(pod) for pod in pods)
        assert tree["status"]["readyReplicas"] == ready[name], name
    return ready


def test_world_is_decided_by_its_seed() -> None:
    worlds = [World(100, Clock(), seed=seed) for seed in (1, 1, 2)]

    first, same, other = (msgspec.json.encode(world.objects[PODS.kind][key]) for world in worlds
                          for key in [next(iter(world.objects[PODS.kind]))])  # fmt: skip

    assert first == same
    assert first != other
