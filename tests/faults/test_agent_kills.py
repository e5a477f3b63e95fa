"""Agents over `kill -9`: what is derived equals one undisturbed run over the same log."""

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from almenara.bus import Record
from almenara.processors.fold import Fold
from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from almenara.signals import Event, Resource, Signal
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings
from almenara_demo.fleet import Fleet
from almenara_nats.mapping import read_messages
from support.application import Almenara
from support.bus import read_log
from support.paths import ROOT
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_AGENT_KILLS", "20"))
"""Of the bus with the processor alone, which start in a moment."""
APPLICATION_KILLS = int(os.environ.get("ALMENARA_AGENT_APPLICATION_KILLS", "3"))
EVENTS_PER_KILL = 100
HOST = ROOT / "tests" / "support" / "agent_host.py"
BATCH = 40
PATIENCE = 120.0
LOAD = {"kind": "cloudevents", "rate_limit": 1_000_000, "burst": 1_000_000}
SETTINGS = {"enabled": True, "default_silence": 2.0, "min_silence": 1.0, "finished_limit": 20,
            "story_limit": 20}  # fmt: skip


def list_events(seed: int) -> Iterator[dict[str, Any]]:
    """Yield the events of the demo's fleet as CloudEvents, some of them late."""
    chance, late = random.Random(seed), list[dict[str, Any]]()
    for number, message in enumerate(Fleet(seed).messages(50), 1):
        headers = {name.lower(): text for name, text in message.headers.items()}
        for event in read_messages(
            message.subject, headers, message.payload, stream="S", sequence=number, received=number
        ):
            data = json.loads(bytes(event.data)) if isinstance(event.data, msgspec.Raw) else {}
            body = {"specversion": "1.0", "id": str(number), "source": "fleet",
                    "type": event.type, "subject": event.subject, "data": data}  # fmt: skip
            if chance.random() < 0.05:
                late.append(body)
            else:
                yield body
        if late and chance.random() < 0.1:
            yield late.pop(0)


async def push(url: str, token: str, stopping: asyncio.Event, seed: int) -> int:
    """Push batches, each until it is acknowledged, and every tenth once more."""
    headers = {"authorization": f"Bearer {token}",
               "content-type": "application/cloudevents-batch+json"}  # fmt: skip
    events, count = list_events(seed), 0
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        while not stopping.is_set():
            body = json.dumps([next(events) for _ in range(BATCH)])
            count += 1
            for _ in range(2 if count % 10 == 0 else 1):
                await push_until_stored(client, body)
            await asyncio.sleep(0.02)
    return count * BATCH


async def push_until_stored(client: httpx.AsyncClient, body: str) -> None:
    while True:
        try:
            answer = await client.post("/intake/cloudevents", content=body)
        except httpx.TransportError:
            await asyncio.sleep(0.05)
            continue
        if answer.status_code == 200:
            return
        assert answer.status_code == 503, answer.text
        await asyncio.sleep(0.05)


def derive_again(records: list[Record], end: int) -> list[Signal]:
    """What an undisturbed processor derives of the log up to a position."""
    settings = msgspec.convert(SETTINGS, AgentsSettings)
    fold = Fold(AgentsProcessor(settings), "agents", {})
    derived = [
        signal for record in records if record.sequence <= end for signal in fold.accept(record)
    ]
    assert fold.take_failures() == []
    return derived


def identify(signal: Signal) -> bytes:
    """A derived signal as text, without where it is stored."""
    if isinstance(signal, Event):
        return msgspec.json.encode([signal.id, signal.type, signal.subject, signal.time])
    assert isinstance(signal, Resource)
    return msgspec.json.encode(
        [*signal.key, signal.status, signal.state, signal.time, signal.deleted],
        order="deterministic",
    )


async def check_log(storage: Path) -> list[bytes]:
    """Check that what is derived in a log equals what an undisturbed processor derives of it."""
    records, position = await read_log(storage, "agents")
    stored = [
        identify(record.signal)
        for record in records
        if record.signal.origin == "agents" and isinstance(record.signal, Event | Resource)
    ]
    derived = [identify(signal) for signal in derive_again(records, position)]
    assert any(b"agents.deliberation" in each for each in stored)
    assert stored == derived
    return stored


def has_ended(process: int) -> bool:
    """Whether a process has ended with all its threads: each may end later than the first, and the
    lock of the folder with the last."""
    try:
        threads = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return all(text.rpartition(")")[2].split()[0] in "ZX" for text in threads)


async def test_agents_equal_over_kills_of_bus_and_processor(tmp_path: Path) -> None:
    seed = choose_seed()
    chance = random.Random(seed)
    events = tmp_path / "events.json"
    count = (KILLS + 1) * EVENTS_PER_KILL * 4
    events.write_bytes(
        msgspec.json.encode(
            [
                (each["id"], each["type"], each["subject"], each["data"])
                for each in itertools.islice(list_events(seed), count)
            ]
        )
    )
    settings = msgspec.json.encode(SETTINGS).decode()
    command = [sys.executable, str(HOST), str(tmp_path / "var"), str(events), settings]

    def read_number(name: str) -> int:
        path = tmp_path / name
        return int(path.read_text()) if path.exists() else 0

    def wait_for_more() -> int:
        """Wait for some events of a host that was not killed yet; return its process."""
        expected = read_number("published") + EVENTS_PER_KILL
        wait_until(lambda: read_number("published") >= expected, "events", PATIENCE)
        return read_number("pid")

    with subprocess.Popen(command) as forking:
        killed = 0
        try:
            for _ in range(KILLS):
                process = wait_for_more()
                assert process != killed
                await asyncio.sleep(chance.uniform(0, 0.3))
                os.kill(process, signal.SIGKILL)
                killed = process
            process = wait_for_more()
        finally:
            forking.kill()
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: has_ended(process), "the end of the last host", PATIENCE)
    stored = await check_log(tmp_path / "var")
    unknown = sum(b'"unknown"' in each for each in stored)
    print(f"{KILLS} kills, {len(stored)} derived signals equal, {unknown} of them unknown")


async def test_derived_agents_equal_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    seed = choose_seed()
    chance = random.Random(seed)
    token, value = create_token("load", Role.INTAKE, [], 3600, created_by="test", intake="load")
    storage = tmp_path / "a" / "var"
    storage.mkdir(parents=True, mode=0o700)
    AccessStore(storage).add_token(token)
    config = {"plugins": {"disabled": ["nats"], "agents": SETTINGS}, "intake": {"load": LOAD}}
    with Almenara(tmp_path / "a", config=config) as almenara:
        stopping = asyncio.Event()
        pushing = asyncio.create_task(push(almenara.url, value, stopping, seed))
        for _ in range(APPLICATION_KILLS):
            expected = await asyncio.to_thread(almenara.stored) + EVENTS_PER_KILL
            await asyncio.to_thread(almenara.wait_for_events, expected, PATIENCE)
            await asyncio.sleep(chance.uniform(0, 0.3))
            almenara.kill()
            almenara.launch()
            await asyncio.to_thread(wait_until, almenara.ready, "almenara", PATIENCE)
        expected = await asyncio.to_thread(almenara.stored) + EVENTS_PER_KILL
        await asyncio.to_thread(almenara.wait_for_events, expected, PATIENCE)
        stopping.set()
        count = await pushing
    stored = await check_log(storage)
    print(f"{APPLICATION_KILLS} kills, {count} events pushed, {len(stored)} derived signals equal")
