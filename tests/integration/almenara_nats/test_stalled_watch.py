"""A watch of shared values whose consumer is on a server that ends, unlike the connection."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, cast

import nats
import pytest
from nats.aio.client import Client

from almenara.errors import Unavailable
from almenara.shared_log import SharedValues, ValueChange
from almenara_nats import bus_values
from almenara_nats.bus_values import WatchProgress
from almenara_nats.errors import NatsUnavailableError
from support.nats_cluster import nats_cluster
from support.replicas import shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

BUCKET = "KV_ALMENARA_BUS_STATE"
Watch = AsyncGenerator[ValueChange | None, None]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    with nats_cluster(tmp_path) as servers:
        yield servers


def watch(values: SharedValues) -> Watch:
    return cast("Watch", values.watch())


async def find_server(client: Client) -> tuple[str, str]:
    """Return the names of the servers with the bucket's leader and the watch's consumer."""
    jetstream: Any = client.jetstream()
    info = await jetstream.stream_info(BUCKET)
    # The server deletes the consumers of earlier watches some minutes later.
    consumers = await jetstream.consumers_info(BUCKET)
    newest = max(consumers, key=lambda consumer: consumer.created)
    return info.cluster.leader, newest.cluster.leader


async def open_elsewhere(values: SharedValues, client: Client) -> tuple[Watch, str]:
    """Open a watch whose consumer is on neither the first server nor the leader of the bucket."""
    while True:
        changes = watch(values)
        async for change in changes:
            if change is None:
                break
        leader, server = await find_server(client)
        if server not in ("n0", leader):
            return changes, server
        await changes.aclose()


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_change_arrives_after_the_server_with_the_consumer_has_ended(
    cluster: list[NatsServer], fault: str
) -> None:
    log = shared_log(cluster[0], replicas=3)
    async with asyncio.timeout(60):
        while True:
            with suppress(Unavailable, TimeoutError):
                await log.prepare()
                break
            await asyncio.sleep(0.2)
    client = await nats.connect(cluster[0].url, allow_reconnect=False)
    async with asyncio.timeout(120), log.connect() as session:
        changes, name = await open_elsewhere(session.state, client)
        server = cluster[int(name[1:])]
        getattr(server, fault)()
        try:
            assert await session.state.put("a", b"1", 0)
            # The client would go on by itself, with the change, after ten seconds or more.
            with pytest.raises(NatsUnavailableError, match=bus_values.STALLED):
                await anext(changes)
            change = None
            while change is None:
                with suppress(Unavailable):
                    async with aclosing(watch(session.state)) as again:
                        change = await anext(again)
            assert (change.key, change.value) == ("a", b"1")
        finally:
            if fault == "freeze":
                server.thaw()
    await client.close()


def progress(newest: int) -> WatchProgress:
    info: Any = type("Info", (), {"created": "c", "state": type("State", (), {"last_seq": newest})})
    return WatchProgress(info)


def test_watch_is_stalled_where_two_checks_miss_a_change() -> None:
    watched = progress(5)
    assert not watched.is_stalled(5)
    assert not watched.is_stalled(6)
    assert watched.is_stalled(6)
    watched.note(6)
    assert not watched.is_stalled(6)
    # Newer changes are always on their way; as long as some arrive, it is only behind.
    assert not watched.is_stalled(8)
    watched.note(7)
    assert not watched.is_stalled(9)
    assert watched.is_stalled(9)
    watched.note(9)
    assert not watched.is_stalled(10)
    watched.note(10)
    assert not watched.is_stalled(10)
    assert not watched.is_stalled(11)
    # What had expired before the watch was opened does not arrive.
    assert not progress(5).is_stalled(5)
