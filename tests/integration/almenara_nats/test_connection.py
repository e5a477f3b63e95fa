"""A connection ends whole, however it ends."""

import asyncio
from pathlib import Path
from typing import Any

import nats
import pytest

from almenara.testing.source_run import MemoryContext
from almenara_nats.client import close, connect
from almenara_nats.settings import NatsSettings
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer, free_port

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("breaks", ["close", "error"])
async def test_connection_ends_its_tasks_when_the_socket_breaks(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    before = asyncio.all_tasks()
    connection = await connect(NatsSettings(servers=[nats_server.url]))

    async def ignore(_message: Any) -> None:
        """Receive a message."""

    await connection.subscribe("events", cb=ignore)
    await connection.flush()

    async def drain() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(connection._transport, "drain", drain)
    # Pending when the connection closes: nothing lets the flusher send it before.
    connection._pending.append(b"PING\r\n")
    connection._pending_data_size = 6
    if breaks == "error":
        await connection._process_op_err(ConnectionResetError("reset by peer"))
    await close(connection)
    assert connection.is_closed
    async with asyncio.timeout(10):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


async def test_stream_is_read_over_a_websocket(tmp_path: Path, memory: MemoryContext) -> None:
    server, port = NatsServer(tmp_path / "nats"), free_port()
    with server.config.open("a") as config:
        config.write(f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
    with server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s"])
        await publish_numbers(client.jetstream(), "s", range(20))
        async with running(server, memory, servers=[f"ws://127.0.0.1:{port}"]) as run:
            await until(lambda: len(run.numbers) == 20, "the messages")
        await client.close()
    assert sorted(run.numbers) == list(range(20))
