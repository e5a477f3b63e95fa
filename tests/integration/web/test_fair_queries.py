"""Queries of one client do not take the readers from the others, with and without sign-in."""

import asyncio
from pathlib import Path

import httpx
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from support.application import Almenara
from support.bus import make_event

pytestmark = pytest.mark.anyio


async def test_queries_without_sign_in_are_shared_between_addresses(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path / "a" / "var")) as bus:
        for start in range(0, 40_000, 500):
            await bus.publish([make_event(number) for number in range(start, start + 500)], "x")
    settings = {
        "plugins__disabled": "[nats]",
        "storage__max_concurrent_queries": "2",
        "storage__max_waiting_queries": "2",
    }

    async def query(address: str, number: int) -> int:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            path = f"/api/events?subject=*nothing-{number}*"
            return (await client.get(f"http://127.0.0.1:{almenara.port}{path}")).status_code

    with Almenara(tmp_path / "a", "nats://127.0.0.1:1", **settings) as almenara:
        greedy = [asyncio.create_task(query("127.0.0.3", number)) for number in range(24)]
        done: set[asyncio.Task[int]] = set()
        while not any(task.result() == 503 for task in done):
            done, _ = await asyncio.wait(greedy, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) < len(greedy), "one address may let any number of queries wait"
            await asyncio.sleep(0.01)
        assert await query("127.0.0.2", 0) == 200
        statuses = await asyncio.gather(*greedy)
    assert set(statuses) == {200, 503}
