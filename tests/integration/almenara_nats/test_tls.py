"""No credentials are sent to a server without TLS if the settings require TLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from almenara.config import Secret
from almenara.testing.source_run import MemoryContext
from almenara_nats.client import connect, connected
from almenara_nats.errors import NatsUnavailableError
from almenara_nats.settings import NatsSettings, TlsSettings
from support.authority import Authority
from support.nats_source import running, until
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

INFO = (
    b'INFO {"server_id":"X","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576,'
    b'"auth_required":true}\r\n'
)
LOGIN: dict[str, Any] = {"user": "watch", "password": Secret.of("s3cr3t-word")}


class PlainServer:
    """A server without TLS on the wire, which notes what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["PlainServer"]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            writer.write(INFO)
            while data := await reader.read(4096):
                self.received += data
                if b"PING" in data:
                    writer.write(b"PONG\r\n")
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


@pytest.mark.parametrize(
    ("scheme", "settings"),
    [
        ("tls", {}),
        ("nats", {"tls": TlsSettings()}),
        ("tls", {"tls": TlsSettings(hostname="nats.example")}),
    ],
)
async def test_nothing_is_sent_in_clear_where_tls_is_required(
    scheme: str, settings: dict[str, Any]
) -> None:
    async with PlainServer().listening() as server:
        address = f"{scheme}://127.0.0.1:{server.port}"
        with pytest.raises(NatsUnavailableError, match=r"does not offer TLS.*Enable TLS"):
            await connect(NatsSettings(servers=[address], **LOGIN, **settings))
        address = f"{scheme}://watch:s3cr3t-word@127.0.0.1:{server.port}"
        with pytest.raises(NatsUnavailableError, match="does not offer TLS"):
            await connect(NatsSettings(servers=[address], **settings))
        assert server.connections == 2
        assert server.received == b""


async def test_credentials_are_sent_in_clear_only_without_tls_in_the_settings() -> None:
    async with PlainServer().listening() as server:
        address = f"nats://127.0.0.1:{server.port}"
        async with connected(NatsSettings(servers=[address], **LOGIN)):
            assert b"s3cr3t-word" in server.received


async def test_source_sends_nothing_in_clear_when_it_reconnects(
    nats_server: NatsServer, memory: MemoryContext
) -> None:
    async with PlainServer().listening() as server:
        address = f"tls://127.0.0.1:{server.port}"
        async with running(nats_server, memory, servers=[address], **LOGIN) as run:
            await until(lambda: server.connections >= 3, "three attempts")
            assert "does not offer TLS" in run.reason
            assert "s3cr3t-word" not in run.reason
        assert server.received == b""


@pytest.mark.parametrize("is_first", [False, True])
async def test_tls_is_used_where_the_server_offers_it(tmp_path: Path, is_first: bool) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", server=True)
    server = NatsServer(tmp_path / "nats")
    first = ", handshake_first: true" if is_first else ""
    optional = "" if is_first else "allow_non_tls: true\n"
    section = f'tls: {{cert_file: "{certificate}", key_file: "{key}"{first}}}\n'
    server.config.write_text(f"{server.config.read_text()}{section}{optional}")
    tls = TlsSettings(ca=authority.path, handshake_first=is_first)
    with server:
        address = f"tls://127.0.0.1:{server.port}"
        async with connected(NatsSettings(servers=[address], tls=tls)) as connection:
            writer = connection._transport._io_writer
            assert writer.get_extra_info("ssl_object") is not None
