"""A real head with autoscaler v2, which reports its status as text only."""

import asyncio
from pathlib import Path

import pytest

from support.ray_head import RayHead, version
from support.ray_source import run_source, submit

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(version() < (2, 10), reason="this Ray has no autoscaler v2 on its head"),
]


async def test_usage_and_demand_of_autoscaler_v2_are_known(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import ray, time\nray.init()\n@ray.remote(num_cpus=64)\ndef f(): pass\n"
        "f.remote()\nray.util.placement_group([{'CPU': 32}])\ntime.sleep(300)\n"
    )
    variables = {"RAY_enable_autoscaler_v2": "1"}
    with RayHead(tmp_path / "ray", environment=variables) as head:
        status = await asyncio.to_thread(head.get, "/api/cluster_status")
        assert not status["data"]["clusterStatus"]
        async with run_source(head, tmp_path) as run:
            await submit(head, f"python {script}", submission_id="waits")
            await run.until(
                lambda: (
                    "lab" in run.resources and (run.resources["lab"].state["waiting"] or 0) >= 2
                ),
                120,
            )
            cluster = run.resources["lab"]
            assert cluster.status == "up"
            assert cluster.state["usage"]["CPU"][1] == head.cpus
            demand = {(item["group"], item["resources"]["CPU"]) for item in cluster.state["demand"]}
            assert demand == {("", 64.0), ("PACK", 32.0)}
