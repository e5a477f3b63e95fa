"""Saved dashboards of two replicas on a real nats-server."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from almenara.config import DashboardSettings, PlacedPanel, Secret
from almenara.errors import Unavailable
from almenara.scope import FULL_SCOPE
from almenara.security.identity import Identity, Role, User
from almenara.state_store.file import FileStateStore
from almenara.state_store.shared import SharedStateStore
from almenara.web.saved_dashboards import SavedDashboard, SavedDashboards
from almenara.web.saved_items import SaveConflictError, open_file
from almenara_nats.bus_settings import JetStreamBusSettings
from support.nats_source import until
from support.replicas import BUS_SECRET, replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio
PATIENCE = 60.0
ANN = Identity(user=User(name="ann", subject="test:ann"), role=Role.VIEWER, scope=FULL_SCOPE)


def board(title: str, name: str = "mine") -> DashboardSettings:
    return DashboardSettings(name=name, title=title, panels=[PlacedPanel(panel="numbers")])


def titles(dashboards: SavedDashboards) -> list[str]:
    return [each.settings.title for each in dashboards.visible(ANN)]


@asynccontextmanager
async def running(server: NatsServer, folder: Path) -> AsyncIterator[SavedDashboards]:
    """Run the dashboards of a replica."""
    async with replica(server, folder) as bus:
        store = SharedStateStore(
            open_file(folder), bus, (SavedDashboard.PREFIX,), Secret.of(BUS_SECRET)
        )
        dashboards = SavedDashboards(store)
        await dashboards.load()
        tasks = [asyncio.create_task(run()) for run in (store.run, dashboards.run)]
        try:
            yield dashboards
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def save(dashboards: SavedDashboards, title: str, version: int, name: str = "mine") -> None:
    """Save once the replica is connected."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await dashboards.save(board(title, name), ANN, "viewer", version)
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_dashboards_are_shared_and_one_of_two_editors_gets_a_conflict(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    await shared_log(nats_server).prepare()
    # What a replica had before it shared anything is shared as well.
    alone = SavedDashboards(FileStateStore(open_file(tmp_path / "b")))
    await alone.save(board("Of b", "other"), ANN, "viewer", 0)
    async with (
        running(nats_server, tmp_path / "a") as one,
        running(nats_server, tmp_path / "b") as other,
    ):
        await save(one, "First", 0)
        await until(lambda: titles(other) == ["First", "Of b"], "both at b", PATIENCE)
        await until(lambda: titles(one) == ["First", "Of b"], "both at a", PATIENCE)
        outcomes = await asyncio.gather(
            one.save(board("Second"), ANN, "viewer", 1),
            other.save(board("Third"), ANN, "viewer", 1),
            return_exceptions=True,
        )
        assert [type(each) for each in outcomes if isinstance(each, Exception)] == [
            SaveConflictError
        ]
        await until(lambda: titles(one) == titles(other), "the same", PATIENCE)
        await one.delete("other", ANN, 1)
        await until(lambda: len(titles(other)) == 1, "the deletion", PATIENCE)
        await forge(nats_server)
    async with running(nats_server, tmp_path / "c") as third:
        await until(lambda: titles(third) == titles(one), "the same at c", PATIENCE)
        assert "Forged" not in titles(third)


async def forge(server: NatsServer) -> None:
    """Put a dashboard into the bucket, without a signature."""
    client = await nats.connect(server.url)
    bucket = await client.jetstream().key_value(JetStreamBusSettings().state_bucket)
    body = (
        b'{"settings":{"name":"aaa","title":"Forged","panels":[]},"version":1,"owner":"x",'
        b'"owner_name":"x","share":"viewer","changed":1,"changed_by":"x"}'
    )
    await bucket.put("dashboard.aaa.1", b"0" * 32 + body)
    await client.close()


async def test_dashboard_is_not_saved_while_replicas_cannot_be_reached(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    await shared_log(nats_server).prepare()
    async with running(nats_server, tmp_path / "a") as one:
        await save(one, "First", 0)
        nats_server.stop()

        async def is_refused() -> bool:
            try:
                await one.save(board("Second"), ANN, "viewer", 1)
            except Unavailable:
                return True
            return False

        async with asyncio.timeout(PATIENCE):
            while not await is_refused():
                await asyncio.sleep(0.05)
        assert titles(one) == ["First"]
        nats_server.start()
        await save(one, "Second", 1)
        assert titles(one) == ["Second"]


async def test_replicas_follow_a_bucket_that_was_created_again(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with (
        running(nats_server, tmp_path / "a") as one,
        running(nats_server, tmp_path / "b") as two,
    ):
        await save(one, "First", 0)
        await until(lambda: titles(two) == ["First"], "the dashboard on both", PATIENCE)
        client = await nats.connect(nats_server.url)
        await client.jetstream().delete_stream(f"KV_{log.bus.state_bucket}")
        await client.close()
        await log.prepare()
        # What both had is shared again, and what follows arrives.
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await one.save(board("Second"), ANN, "viewer", 1)
                except (Unavailable, SaveConflictError):
                    await asyncio.sleep(0.05)
                else:
                    break
        await until(lambda: titles(two) == ["Second"], "the change on both", PATIENCE)


async def test_dashboards_that_servers_have_lost_are_shared_again(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """As after a power failure, before which the newest messages were not flushed."""
    await shared_log(nats_server).prepare()
    data, older = nats_server.folder / "data", nats_server.folder / "older"
    async with running(nats_server, tmp_path / "a") as one:
        await save(one, "First", 0)
        nats_server.stop()
        shutil.copytree(data, older)
        nats_server.start()
        await save(one, "Second", 1)
        await save(one, "New", 0, "other")
    nats_server.stop()
    shutil.rmtree(data)
    older.rename(data)
    nats_server.start()
    async with (
        running(nats_server, tmp_path / "a") as one,
        running(nats_server, tmp_path / "b") as two,
    ):
        await until(lambda: sorted(titles(two)) == ["New", "Second"], "both", PATIENCE)
        await save(one, "Third", 2)
        await until(lambda: sorted(titles(two)) == ["New", "Third"], "the change", PATIENCE)
