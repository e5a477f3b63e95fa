"""The cache of the fleet: a real Valkey or Redis server where one is installed, and a simulated one
elsewhere."""

import asyncio
import contextlib
import importlib.util
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from almenara.sdk import honor_cancellation
from almenara_demo.processes import find_free_ports, run_process
from almenara_demo.simulated_cache import run_simulated_cache

NAME: Final = "fleet-cache"
PROGRAMS: Final = ("valkey-server", "redis-server")
STREAM: Final = "tasks"
GROUPS: Final = ("planners", "reviewers")
CHANNELS: Final = ("decisions", "heartbeats")
KEYS: Final = 4_000
PAUSE: Final = 0.05
LONGEST_STREAM: Final = 2_000


@contextlib.asynccontextmanager
async def run_cache(folder: Path) -> AsyncIterator[list[dict[str, Any]]]:
    """Run a server with load; yields the deployments for the Valkey plugin.

    Without the library of the plugin there is nothing that could show it, so nothing runs.
    """
    if importlib.util.find_spec("valkey") is None:
        yield []
        return
    (port,) = find_free_ports(1)
    deployment = {"name": NAME, "urls": [f"redis://127.0.0.1:{port}"]}
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        async with run_simulated_cache(port):
            yield [{**deployment, "simulated": True}]
        return
    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory", "24mb",
        "--maxmemory-policy", "allkeys-lru", "--slowlog-log-slower-than", "2000",
    ]  # fmt: skip
    async with run_process("cache", folder, command):
        task = asyncio.create_task(load_forever(port), name="load of the cache")
        try:
            yield [deployment]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def load_forever(port: int) -> None:
    """Use the server as a fleet does; errors, as before it is up, start over."""
    from valkey.exceptions import ValkeyError

    while True:
        try:
            await use_server(port)
        except (ValkeyError, OSError):
            await asyncio.sleep(PAUSE)


async def use_server(port: int) -> None:
    """Subscribe to channels and send load, until an error."""
    from valkey.asyncio import Valkey

    async with Valkey(port=port) as client, client.pubsub() as subscriber:
        await subscriber.subscribe(*CHANNELS)
        await prepare(client)
        await send_load(client, random.Random(0))  # nosec B311 # simulates load


async def prepare(client: Any) -> None:
    """Create the consumer groups of the stream."""
    from valkey.exceptions import ResponseError

    for group in GROUPS:
        with contextlib.suppress(ResponseError):
            await client.xgroup_create(STREAM, group, mkstream=True)


async def send_load(client: Any, chosen: random.Random) -> None:
    """Read and write keys, add to the stream and consume from it, until cancelled."""
    while True:
        # The library may swallow a cancellation.
        await honor_cancellation(send_round(client, chosen))
        await asyncio.sleep(PAUSE)


async def send_round(client: Any, chosen: random.Random) -> None:
    """Some requests of each kind."""
    for _ in range(chosen.randint(1, 12)):
        key = f"context:{int(chosen.expovariate(8 / KEYS)) % KEYS}"
        if await client.get(key) is None:
            await client.set(key, "x" * chosen.randint(200, 20_000), ex=600)
    await client.xadd(STREAM, {"task": chosen.randint(1, 999)}, maxlen=LONGEST_STREAM)
    await client.publish(chosen.choice(CHANNELS), "1")
    # The reviewers are slower than the tasks arrive, so that their lag grows.
    for group, share in zip(GROUPS, (1.0, 0.7), strict=True):
        if chosen.random() < share:
            for _, entries in await client.xreadgroup(group, "agent-1", {STREAM: ">"}, count=1):
                await client.xack(STREAM, group, *(entry for entry, _ in entries))
