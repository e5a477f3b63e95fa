"""A connection ends whole, however it ends."""

import asyncio
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

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


async def test_frozen_server_does_not_delay_the_connection_to_another_one(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "first") as first, NatsServer(tmp_path / "second") as second:
        first.freeze()
        settings = NatsSettings(servers=[first.url, second.url], connect_timeout=600)
        async with asyncio.timeout(60):
            connection = await connect(settings)
            assert connection.server_info["port"] == second.port
            await close(connection)
        first.thaw()


async def test_flush_confirms_what_was_sent_before() -> None:
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"max_payload":1048576,"headers":true}\r\n')
        async for line in reader:
            lines.append(line.partition(b" ")[0].strip())
            if lines[-1] == b"PING":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = NatsSettings(servers=[f"nats://127.0.0.1:{port}"], ping_interval=20)
        connection = await connect(settings)
        lines.clear()
        await connection.subscribe("events")
        await connection.publish("events", b"")
        await connection.flush()
        # The empty line is the payload of the message.
        assert lines == [b"SUB", b"PUB", b"", b"PING"]
        await close(connection)


async def test_request_that_may_be_repeated_is_sent_again_until_it_is_answered(
    nats_server: NatsServer,
) -> None:
    # On a slow machine, a connection that is pinged each second may be replaced meanwhile.
    settings = NatsSettings(servers=[nats_server.url], ping_interval=20)
    connection, other = await connect(settings), await connect(settings)
    received: list[bytes] = []

    async def answer_second(message: Msg) -> None:
        received.append(message.data)
        if len(received) == 2:
            await message.respond(b"answer")

    await other.subscribe("repeated", cb=answer_second)
    await other.flush()
    headers = {"Nats-Msg-Id": "one"}
    answer = await connection.request("repeated", b"request", timeout=60, headers=headers)
    assert answer.data == b"answer"
    assert received == [b"request", b"request"]
    await close(connection)
    await close(other)


async def test_request_waits_for_a_server_that_can_answer_where_that_is_expected(
    nats_server: NatsServer,
) -> None:
    connection = await connect(NatsSettings(servers=[nats_server.url]))
    connection.awaits_leaders = True
    headers = {"Nats-Msg-Id": "one"}
    request = asyncio.create_task(connection.request("late", b"", timeout=60, headers=headers))
    with pytest.raises(NoRespondersError):
        await connection.request("late", b"", timeout=60)
    assert not request.done()
    other = await connect(NatsSettings(servers=[nats_server.url]))

    async def answer(message: Msg) -> None:
        await message.respond(b"answer")

    await other.subscribe("late", cb=answer)
    assert (await request).data == b"answer"
    await close(connection)
    await close(other)
