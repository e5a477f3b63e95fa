"""The status of the autoscaler, as each of its versions writes it."""

import asyncio
import json
from pathlib import Path

import pytest

from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_ray.source import RaySource
from support.dashboards import VERSION, make_settings, respond, serve

pytestmark = pytest.mark.anyio


async def test_status_of_an_autoscaler_v2_is_read_from_its_text(tmp_path: Path) -> None:
    text = (
        "Pending:\n (no pending nodes)\nRecent failures:\n (no failures)\n\nTotal Usage:\n"
        " 1.0/2.0 CPU\n\nPending Demands:\n {'CPU': 64.0}: 3+ pending tasks/actors\n"
    )

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path, _, query = head.split(" ")[1].partition("?")
        status = text if query == "format=1" else None
        bodies = {
            "/api/jobs/": b"[]",
            "/api/version": VERSION,
            "/api/cluster_status": json.dumps(
                {"result": True, "data": {"autoscalingError": None, "clusterStatus": status}}
            ).encode(),
        }
        body = bodies.get(path)
        await respond(body or b"", "200 OK" if body else "404 Not Found")(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(
                lambda: "c0" in run.resources and bool(run.resources["c0"].state["usage"])
            )
            cluster = run.resources["c0"]
            assert cluster.status == "up"
            assert cluster.state["usage"] == {"CPU": [1.0, 2.0]}
            assert cluster.state["waiting"] == 3
            text = "No cluster status. It may take a few seconds."
            await run.until(lambda: run.resources["c0"].state["usage"] is None)
            assert run.resources["c0"].state["waiting"] is None
