"""The client, and servers that respond with anything."""

import asyncio
import contextlib

import pytest

from almenara.sdk.servers import Address
from almenara_valkey import replies
from almenara_valkey.client import Connection
from almenara_valkey.errors import ServerError
from almenara_valkey.settings import DeploymentSettings

pytestmark = pytest.mark.anyio
LIMIT = 100_000


@pytest.mark.parametrize("announced", [b"$900000000\r\n", b"*900000000\r\n"])
async def test_reply_beyond_the_limit_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, announced: bytes
) -> None:
    monkeypatch.setattr(replies, "LARGEST_REPLY", LIMIT)

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(announced)
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b":1\r\n" * 1_000)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = DeploymentSettings(name="one", urls=[f"redis://127.0.0.1:{port}"], timeout=30.0)
    connection = Connection(Address("127.0.0.1", port), settings)
    try:
        with pytest.raises(ServerError, match="longer than 100,000 bytes"):
            await connection.call("INFO")
    finally:
        await connection.close()
        server.close()
