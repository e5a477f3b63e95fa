"""The simulated Ray cluster has a job for each deliberation, and runs in pods."""

from almenara_demo.context_graph import Deliberation
from almenara_demo.ray_cluster import MAX_PENDING, NODES, SLOTS, SimulatedRay


class Clock:
    time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def deliberations(count: int) -> list[Deliberation]:
    return [Deliberation(f"US-{number}", f"task-{number}", "DEV") for number in range(count)]


def submitted(ray: SimulatedRay) -> list[str]:
    return [job.entrypoint for job in ray.jobs if "fleet.deliberate" in job.entrypoint]


def test_each_deliberation_has_one_job() -> None:
    clock = Clock()
    ray = SimulatedRay(1, clock, lambda: deliberations(2))
    for _ in range(5):
        ray.advance()
        clock.time += 1
    assert submitted(ray) == [
        f"python -m fleet.deliberate --story US-{number} --task task-{number} --role DEV"
        for number in range(2)
    ]


def test_fast_fleet_does_not_fill_the_queue() -> None:
    clock = Clock()
    ray = SimulatedRay(1, clock, lambda: deliberations(100))
    for _ in range(20):
        ray.advance()
        clock.time += 1
        assert sum(job.status == "PENDING" for job in ray.jobs) <= MAX_PENDING + 1
    assert SLOTS <= len(submitted(ray)) < 100


def test_nodes_have_the_names_of_pods() -> None:
    _, answer = SimulatedRay(hosts=["pod-a", "pod-b"]).answer("/nodes", {})
    names = [node["hostname"] for node in answer["data"]["summary"]]
    assert names == ["pod-a", "pod-b", *(name for name, *_ in NODES[2:])]
