"""Core subjects: what the settings name is read, and JetStream is not needed for it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest

from almenara.signals import Severity
from almenara.testing.source_run import MemoryContext
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_configured_advisories_are_read_with_their_severity(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    subjects = ["$JS.EVENT.ADVISORY.>"]
    async with running(nats_server, memory, subjects=subjects, streams=["NONE"]) as run:
        await until(lambda: run.status == "degraded", "the missing stream")
        await publish_numbers(jetstream, "s", range(1))
        consumer = await jetstream.pull_subscribe(
            "s", durable="workers", stream="S", config=nats.js.api.ConsumerConfig(max_deliver=1)
        )
        (message,) = await consumer.fetch(1)
        await message.term()
        await until(lambda: any("terminated" in event.type for event in run.events), "advisories")
        severities = {event.type.rpartition(".")[2]: event.severity for event in run.events}
        assert severities["terminated"] is Severity.WARN
        assert severities["consumer_action"] is Severity.INFO


async def test_wildcard_does_not_include_internal_subjects(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    async with running(nats_server, memory, subjects=[">"], rescan=0.1) as run:
        async with asyncio.timeout(15):
            while not run.events:
                await client.publish("c", b"{}")
                await asyncio.sleep(0.05)
        assert {event.subject for event in run.events} == {"c"}


async def test_core_subjects_need_no_jetstream(tmp_path: Path, memory: MemoryContext) -> None:
    server = NatsServer(tmp_path / "nats")
    lines = server.config.read_text().splitlines()
    server.config.write_text("\n".join(line for line in lines if "jetstream" not in line))
    with server:
        client = await nats.connect(server.url)
        async with running(server, memory, subjects=["c"], rescan=0.1) as run:
            async with asyncio.timeout(15):
                while not run.events:
                    await client.publish("c", json.dumps({"event_type": "CORE"}).encode())
                    await asyncio.sleep(0.05)
            assert run.status == "running"
            assert run.reasons == []
        async with running(server, memory, rescan=0.1) as run:
            await until(lambda: "Enable JetStream" in run.reason, "the remedy")
        await client.close()
