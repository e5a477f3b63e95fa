"""HTTP servers for checks, and what curl reports about them."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from almenara_http.settings import CheckSettings

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that reads a request's head and leaves the answer to the handler."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(head.decode(), writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/"
    finally:
        server.close()


def answering(status: str = "200 OK", body: str = "fine", headers: str = "") -> Handler:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode()
        )
        await writer.drain()

    return answer


def check(url: str, **settings: object) -> CheckSettings:
    return CheckSettings(name="shop", url=url, **{"timeout": 1.0, **settings})  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving_http2(
    certificate: Path, key: Path, client_ca: Path | None = None
) -> AsyncIterator[str]:
    """A hypercorn with HTTP/2 that answers with the version of HTTP it was reached by."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.certfile, config.keyfile = str(certificate), str(key)
    if client_ca is not None:
        config.ca_certs, config.verify_mode = str(client_ca), ssl.CERT_REQUIRED
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(_report_version, config, shutdown_trigger=stop.wait))
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            stop.set()


async def _report_version(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = json.dumps({"version": scope["http_version"]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def curl(*arguments: str | Path) -> dict[str, Any]:
    """What curl reports of a request: `%{json}` of its option `--write-out`."""
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--output", "/dev/null", "--write-out", "%{json}", "--max-time", "10",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    report: dict[str, Any] = json.loads(output)
    return report
