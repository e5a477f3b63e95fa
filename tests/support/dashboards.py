"""Ray dashboards that misbehave on the wire."""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from almenara.config import Secret
from almenara_ray.settings import ClusterSettings, RaySettings

VERSION = json.dumps({"version": "4", "ray_version": "2.60.0", "session_name": "s"}).encode()
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
T = TypeVar("T")


@contextlib.asynccontextmanager
async def run_in_thread(manager: contextlib.AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Run a server on an event loop of its own, so that its tasks do not count as the source's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def submit(call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))

    try:
        yield await submit(manager.__aenter__())
    finally:
        await submit(manager.__aexit__(None, None, None))
        await submit(end())
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()


def serve(
    handler: Handler, tls: ssl.SSLContext | None = None
) -> contextlib.AbstractAsyncContextManager[str]:
    """Run a server that reads the head of each request and leaves the answer to the handler."""
    return run_in_thread(listen(handler, tls))


@contextlib.asynccontextmanager
async def listen(handler: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[str]:

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await handler(head.decode(), writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
    finally:
        server.close()


def respond(body: bytes, status: str = "200 OK", headers: str = "", length: int = 0) -> Handler:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        size = length or len(body)
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {size}\r\n{headers}\r\n".encode())
        writer.write(body)
        await writer.drain()
        if length:
            writer.close()

    return answer


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def endless(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n[")
    while True:
        writer.write(b"0," * 32768)
        await writer.drain()


async def dripping(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"[")
        await writer.drain()
        await asyncio.sleep(0.1)


async def garbage(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff not HTTP at all\r\n\r\n")
    await writer.drain()


def make_settings(*urls: str, **more: Any) -> RaySettings:
    clusters = [
        ClusterSettings(name=f"c{number}", url=url, token=Secret.of("t0ken-word"))
        for number, url in enumerate(urls)
    ]
    fast = {
        "active_interval": 0.1,
        "idle_interval": 0.1,
        "cluster_interval": 0.3,
        "timeout": 0.8,
        "connect_timeout": 0.5,
    }
    return RaySettings(clusters=clusters, **{**fast, **more})


def respond_by_path(
    known: dict[str, bytes], statuses: dict[str, str], requested: list[str]
) -> Handler:
    """Respond to known paths, with the status in `statuses` where there is one; the paths of all
    requests are added to `requested`."""

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1].partition("?")[0]
        requested.append(path)
        status = statuses.get(path, "200 OK" if path in known else "404 Not Found")
        await respond(known.get(path, b"no"), status)(head, writer)

    return answer
