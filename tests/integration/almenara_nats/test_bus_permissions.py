"""The permissions that high-availability.md lists are enough for a replica."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from almenara.bus.shared import SharedBus
from almenara.config import Secret, StorageSettings
from almenara.leases import Publisher
from almenara.leases.shared import SharedLeases
from almenara_nats.bus_log import JetStreamLog
from almenara_nats.bus_settings import JetStreamBusSettings
from almenara_nats.settings import NatsSettings
from support.bus import make_event
from support.paths import ROOT
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


def read_permissions() -> list[str]:
    """The subjects of the table, with the row that stands for the other bucket."""
    text = (ROOT / "docs" / "operations" / "high-availability.md").read_text("utf-8")
    table = text.split("| publish | why |", 1)[1].split("\n\n", 1)[0]
    subjects = [subject for subject in re.findall(r"`([^`]+)`", table) if "." in subject]
    leases = [subject for subject in subjects if "_LEASES" in subject]
    return [*subjects, *(subject.replace("_LEASES", "_STATE") for subject in leases)]


def make_log(server: NatsServer, user: str) -> JetStreamLog:
    settings = NatsSettings(servers=[server.url], user=user, password=Secret.of("p"))
    return JetStreamLog(settings, JetStreamBusSettings(replicas=1))


async def test_listed_permissions_are_enough(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    permissions = {"publish": read_permissions(), "subscribe": ["_INBOX.>"]}
    users = [
        {"user": "admin", "password": "p"},
        {"user": "bus", "password": "p", "permissions": permissions},
    ]
    server.config.write_text(
        f"{server.config.read_text()}\nauthorization: {json.dumps({'users': users})}\n"
    )
    with server:
        await make_log(server, "admin").prepare()
        async with (
            asyncio.timeout(60),
            SharedBus(StorageSettings(dir=tmp_path / "a"), make_log(server, "bus")) as bus,
        ):
            has_lease = asyncio.Event()

            async def work(publisher: Publisher) -> None:
                await publisher.publish([make_event(1)], "source")
                has_lease.set()
                await asyncio.Event().wait()

            leases = SharedLeases(bus, "a")
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(leases.run_keeper()),
                    group.create_task(leases.run("source", work, lambda: None)),
                ]
                await has_lease.wait()
                for task in tasks:
                    task.cancel()
            state = (await bus.wait_for_session()).state
            revision = await state.put("token.x", b"1", 0)
            assert revision is not None
            assert await state.newest_revision() == revision
            assert [change async for change in take_existing(state)] == ["token.x"]
            assert await state.delete("token.x", revision)
            snapshots = (await bus.wait_for_session()).snapshots
            await snapshots.put("part-1", b"x" * 300_000)
            await snapshots.put("part-2", b"y")
            assert await snapshots.get("part-1") == b"x" * 300_000
            await snapshots.retain(["part-2"])
            assert await snapshots.names() == {"part-2"}
            assert await snapshots.get("part-1") is None


async def take_existing(state):
    async for change in state.watch():
        if change is None:
            return
        yield change.key
