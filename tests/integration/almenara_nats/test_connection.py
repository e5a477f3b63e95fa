"""A connection ends whole, however it ends."""

import asyncio
from typing import Any

import pytest

from almenara_nats.client import close, connect
from almenara_nats.settings import NatsSettings
from support.servers import NatsServer

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
