"""A simulated Ray cluster in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from support.servers import accepts, free_port, wait_until

PROGRAM = """
import asyncio, sys
from almenara_demo.ray_cluster import run_simulated_cluster

async def main():
    async with run_simulated_cluster(int(sys.argv[1]), 1):
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def simulated_ray() -> Iterator[dict[str, str]]:
    """Run a cluster; yields the settings of Almenara that watch it."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)])
    try:
        wait_until(lambda: accepts(port), "the simulated Ray")
        clusters = [{"name": "sim", "url": f"http://127.0.0.1:{port}"}]
        yield {"plugins__ray__clusters": json.dumps(clusters)}
    finally:
        process.terminate()
        process.wait(10)
