"""Requests to an identity provider: through proxies, with name look-ups of their own."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from almenara.sdk import http
from almenara.security.bounded_http import BoundedTransport

pytestmark = pytest.mark.anyio
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


@asynccontextmanager
async def serving(requests: list[str]) -> AsyncIterator[int]:
    """A server that notes the first line of each request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0])
        writer.write(RESPONSE)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def fetch(url: str) -> httpx.Response:
    transport = BoundedTransport(ssl.create_default_context(), 5.0)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        return await client.get(url)


async def test_requests_go_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[str] = []
    async with serving(requests) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await fetch("http://provider.invalid/keys")
        await fetch(f"http://127.0.0.1:{port}/direct")
    assert requests == ["GET http://provider.invalid/keys HTTP/1.1", "GET /direct HTTP/1.1"]


async def test_names_are_resolved_apart_from_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(host: str, port: int, *_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(http, "getaddrinfo", resolve)
    requests: list[str] = []
    async with serving(requests) as port:
        response = await fetch(f"http://provider.invalid:{port}/keys")
    assert response.status_code == 200
    assert requests == ["GET /keys HTTP/1.1"]
