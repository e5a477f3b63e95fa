"""Events that a real Ray pushes to an intake of a running Almenara."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.ray_head import RayHead, version
from support.ray_source import submit
from support.servers import wait_until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(version() < (2, 54), reason="this Ray exports no events"),
]

TASKS = """
import ray
ray.init()

@ray.remote
class Counter:
    def add(self): return 1

@ray.remote(max_retries=0)
def fails(): raise ValueError("loss is nan")

counter = Counter.remote()
ray.get(counter.add.remote())
try:
    ray.get(fails.remote())
except ValueError:
    pass
"""


@pytest.fixture
def almenara(tmp_path: Path) -> Iterator[Almenara]:
    config = {"plugins": {"disabled": ["nats"]}, "intake": {"ray": {"kind": "ray"}}}
    with Almenara(tmp_path / "almenara", config=config) as running:
        yield running


def list_types(almenara: Almenara) -> dict[str, list[dict[str, Any]]]:
    events: dict[str, list[dict[str, Any]]] = {}
    for event in almenara.events("?origin=intake/ray"):
        events.setdefault(event["type"], []).append(event)
    return events


async def test_real_ray_pushes_its_events(almenara: Almenara, tmp_path: Path) -> None:
    token, value = create_token("ray", Role.INTAKE, [], 3600, created_by="test", intake="ray")
    AccessStore(almenara.folder / "var").add_token(token)
    address = almenara.url.replace("http://", f"http://intake:{value}@")
    environment = {
        "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR": f"{address}/intake/ray",
        "RAY_enable_core_worker_ray_event_to_aggregator": "1",
        "RAY_enable_ray_event": "1",
    }
    script = tmp_path / "tasks.py"
    script.write_text(TASKS)
    with RayHead(tmp_path / "ray", environment=environment) as head:
        await submit(head, f"python {script}", submission_id="tasks")
        expected = {
            "ray.export.node_definition", "ray.export.actor_lifecycle",
            "ray.export.task_definition", "ray.export.task_lifecycle",
            "ray.export.driver_job_lifecycle",
        }  # fmt: skip
        wait_until(lambda: expected <= list_types(almenara).keys(), "events of every kind", 120)
        wait_until(
            lambda: any(
                event["severity"] == "ERROR"
                for event in list_types(almenara)["ray.export.task_lifecycle"]
            ),
            "the task that failed",
            60,
        )
    events = list_types(almenara)
    assert all(event["problem"] is None for each in events.values() for event in each)
    assert all(event["subject"] for each in events.values() for event in each)
    (state,) = [s for s in almenara.get("/api/sources") if s["name"] == "intake/ray"]
    assert state["refused"] == 0
    assert value not in almenara.log
