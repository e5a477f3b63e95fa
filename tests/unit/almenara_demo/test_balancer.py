"""The balancer of the demo: which replica gets a connection, and what ends with a replica."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from almenara_demo.balancer import Balancer
from support.servers import free_port

pytestmark = pytest.mark.anyio


class FakeReplica:
    """Answers `/readyz` as it is set, and everything else with its name; `/wait` has no end."""

    def __init__(self, name: str) -> None:
        self.name, self.port, self.is_ready = name, free_port(), True
        self.has_waiting = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        status = "503 No" if b"/readyz" in line and not self.is_ready else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\n\r\n{self.name}".encode())
        await writer.drain()
        if b"/wait" in line:
            self.has_waiting.set()
            await asyncio.Event().wait()
        writer.close()


async def request(port: int, path: str = "/") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer.rpartition("\r\n\r\n")[2].strip()


@asynccontextmanager
async def balanced() -> AsyncIterator[tuple[int, list[FakeReplica]]]:
    replicas = [FakeReplica("a"), FakeReplica("b")]
    balancer = Balancer(free_port(), [replica.port for replica in replicas])
    for replica in replicas:
        await replica.start()
    task = asyncio.create_task(balancer.run())
    try:
        yield balancer.port, replicas
    finally:
        task.cancel()
        await asyncio.wait([task])
        for replica in replicas:
            await replica.stop()


async def until_answer(port: int, expected: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if await request(port) == expected:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.02)


async def test_connections_go_to_replicas_that_are_ready() -> None:
    async with balanced() as (port, (first, second)):
        first.is_ready = False
        await until_answer(port, "b")
        first.is_ready, second.is_ready = True, False
        await until_answer(port, "a")
        first.is_ready = False
        await until_answer(port, "No replica is ready.")


async def test_connections_end_with_their_replica() -> None:
    async with balanced() as (port, (first, second)):
        second.is_ready = False
        await until_answer(port, "a")
        waiting = asyncio.create_task(request(port, "/wait"))
        await first.has_waiting.wait()
        second.is_ready = True
        await until_answer(port, "b")
        await first.stop()
        async with asyncio.timeout(30):
            assert await waiting == "a"
        await until_answer(port, "b")
