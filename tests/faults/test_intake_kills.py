"""Nothing pushed is lost or doubled: Almenara is killed at random moments while senders push."""

import asyncio
import json
import os
import random
from pathlib import Path

import httpx
import pytest

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_INTAKE_KILLS", "2"))
SENDERS = 3
PATIENCE = 240.0


async def push_until(stopping: asyncio.Event, url: str, token: str, sender: int) -> set[str]:
    """Push batches, each again until it is answered with 200; return the acknowledged ids."""
    acknowledged: set[str] = set()
    headers = {"authorization": f"Bearer {token}",
               "content-type": "application/cloudevents-batch+json"}  # fmt: skip
    number = 0
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        while not stopping.is_set():
            ids = [f"{sender}-{number}-{place}" for place in range(random.randrange(1, 50))]
            body = json.dumps(
                [
                    {"specversion": "1.0", "id": each, "source": "load", "type": "LOAD"}
                    for each in ids
                ]
            )
            while True:
                try:
                    answer = await client.post("/intake/cloudevents", content=body)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    break
                await asyncio.sleep(0.05)
            acknowledged.update(ids)
            number += 1
    return acknowledged


async def test_kills_lose_and_double_no_pushed_event(tmp_path: Path) -> None:
    chance = random.Random(choose_seed())
    load = {"kind": "cloudevents", "rate_limit": 1_000_000, "burst": 1_000_000}
    config = {"plugins": {"disabled": ["nats"]}, "intake": {"load": load}}
    token, value = create_token("load", Role.INTAKE, [], 3600, created_by="test", intake="load")
    # Before the start: a running process may take two seconds to know a token.
    storage = tmp_path / "a" / "var"
    storage.mkdir(parents=True, mode=0o700)
    AccessStore(storage).add_token(token)
    with Almenara(tmp_path / "a", config=config) as almenara:
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            pushing = [
                group.create_task(push_until(stopping, almenara.url, value, sender))
                for sender in range(SENDERS)
            ]
            for _ in range(KILLS):
                before = await asyncio.to_thread(almenara.stored)
                await asyncio.to_thread(
                    wait_until, lambda before=before: almenara.stored() > before, "events", PATIENCE
                )
                await asyncio.sleep(chance.uniform(0, 0.3))
                almenara.kill()
                almenara.launch()
                await asyncio.to_thread(wait_until, almenara.ready, "almenara", PATIENCE)
            stopping.set()
        expected = set[str]().union(*(task.result() for task in pushing))
        ids = [event["id"] for event in await asyncio.to_thread(almenara.events, "?type=LOAD")]
    assert len(ids) == len(set(ids))
    assert set(ids) == expected
    print(f"{KILLS} kills, {len(expected)} events pushed, 0 lost, 0 doubled")
