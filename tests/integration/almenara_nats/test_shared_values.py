"""Values that replicas share, in buckets of a real server."""

from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from almenara.shared_log import ValueChange
from support.replicas import shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio
KEYS = ["a", "b", "c"]


async def test_first_values_are_complete_where_the_client_ends_them_early(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where values are on their way while the client requests how many are left."""
    count = JetStreamContext.PushSubscription.consumer_info

    async def count_late(subscription: Any) -> Any:
        info = await count(subscription)
        info.num_pending = 0
        return info

    monkeypatch.setattr(JetStreamContext.PushSubscription, "consumer_info", count_late)
    monkeypatch.setattr(JetStreamContext.PushSubscription, "delivered", 0)
    log = shared_log(nats_server)
    await log.prepare()
    async with log.connect() as session:
        for key in KEYS:
            assert await session.state.put(key, b"v", 0)
        assert await session.state.delete("b", 2)
        listed: list[ValueChange] = []
        async for change in session.state.watch():
            if change is None:
                break
            listed.append(change)
    assert sorted(change.key for change in listed) == KEYS
    assert {change.key for change in listed if change.value is None} == {"b"}


async def test_first_values_end_where_some_expire_before_they_arrive(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    bucket = log.bus.state_bucket
    client = await nats.connect(nats_server.url)
    watch_all = KeyValue.watchall

    async def lose_before_watch(values: KeyValue, **options: Any) -> Any:
        watcher = await watch_all(values, **options)
        # Listed as a key of the bucket, and never delivered.
        while not watcher._updates.empty():
            await watcher._updates.get()
        await client.jetstream().purge_stream(f"KV_{bucket}", subject=f"$KV.{bucket}.a")
        return watcher

    async with log.connect() as session:
        assert await session.state.put("a", b"v", 0)
        monkeypatch.setattr(KeyValue, "watchall", lose_before_watch)
        async for change in session.state.watch():
            if change is None:
                break
    await client.close()


async def test_watch_of_an_empty_bucket_ends_its_first_values(nats_server: NatsServer) -> None:
    log = shared_log(nats_server)
    await log.prepare()
    async with log.connect() as session:
        async for change in session.state.watch():
            assert change is None
            break
