"""The nodes of a real Ray whose pages have metrics of vLLM, listed by its dashboard.

Two actors export these metrics in place of replicas of vLLM, by the same library.
"""

from pathlib import Path

import pytest

from almenara.config import Secret
from almenara.testing.source_run import MemoryContext
from almenara_vllm.doctor import diagnose
from almenara_vllm.settings import RaySettings, VllmSettings
from almenara_vllm.source import VllmSource
from support.ray_head import RayHead, version
from support.ray_source import submit
from support.server_process import PatientRun

pytestmark = pytest.mark.anyio
REPLICAS = """
import time, ray
from ray.util.metrics import Gauge

@ray.remote(num_cpus=0)
class Replica:
    def serve(self, name, running):
        gauge = Gauge("vllm_num_requests_running", tag_keys=("model_name", "engine", "ReplicaId"))
        while True:
            gauge.set(running, tags={"model_name": "tiny", "engine": "0", "ReplicaId": name})
            time.sleep(1)

ray.init()
ray.get([Replica.remote().serve.remote(name, running) for name, running in (("a", 2), ("b", 3))])
"""


async def test_replicas_are_observed_on_the_nodes_that_the_dashboard_lists(
    head: RayHead, tmp_path: Path
) -> None:
    ray = RaySettings(
        name="serve", url=head.url, every=0.5, timeout=20.0,
        headers={"authorization": Secret.of(f"Bearer {head.token}")},
    )  # fmt: skip
    settings, context = VllmSettings(ray=[ray]), MemoryContext(tmp_path)
    if version() < (2, 60):
        (finding,) = await diagnose(settings)
        assert "older than Ray 2.60" in finding.message
        return
    script = tmp_path / "replicas.py"
    script.write_text(REPLICAS)
    async with PatientRun(VllmSource(settings, context), bus=context.bus) as run:
        await submit(head, f"python {script}")
        await run.until(lambda: {"tiny/a/0", "tiny/b/0"} <= run.resources.keys(), 120)
        await run.until(lambda: any(each.value == 5 for each in run.samples), 60)
        servers = [each for each in run.resources.values() if each.kind == "vllm.server"]
        assert [each.name.partition("/")[0] for each in servers] == ["serve"]
        assert [each.state["models"] for each in servers] == ["tiny"]
        assert head.token not in str(run.bus.signals)
