"""The simulated cache, as the Valkey plugin observes it."""

from pathlib import Path

import pytest

from almenara.testing.source_run import MemoryContext
from almenara_demo.simulated_cache import run_simulated_cache
from almenara_valkey.settings import DeploymentSettings
from almenara_valkey.source import ValkeySource
from support.server_process import PatientRun
from support.servers import free_port

pytestmark = pytest.mark.anyio


async def test_simulated_cache_is_observed_and_marked(tmp_path: Path) -> None:
    port, context = free_port(), MemoryContext(tmp_path)
    settings = DeploymentSettings(
        name="cache", urls=[f"redis://127.0.0.1:{port}"], simulated=True, every=0.2
    )
    async with (
        run_simulated_cache(port),
        PatientRun(ValkeySource(settings, context), bus=context.bus) as run,
    ):
        await run.until(lambda: {"tasks/planners", "heartbeats"} <= run.resources.keys())
        await run.until(lambda: "hit_rate" in {sample.metric for sample in run.samples})
        server = run.resources[f"127.0.0.1:{port}"]
        assert (server.status, server.state["data"]) == ("ok", "simulated")
        assert not run.is_degraded
