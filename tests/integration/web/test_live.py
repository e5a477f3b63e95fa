"""The WebSocket: frames, limits, stalled clients and draining."""

import asyncio
import json
import re
import socket
import sys
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.application import Almenara
from support.planning_stream import live_url, publish_planning
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio


UNSUPPORTED_UVICORN = """
from almenara.cli.main import main
from almenara.web import server
server.missing_attributes = lambda: ["conn"]
main()
"""


async def test_live_sends_events_as_escaped_rows(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    async with connect(live_url(almenara), origin=almenara.url) as socket:  # type: ignore[arg-type]
        snapshot = json.loads(await socket.recv())
        assert snapshot["target"] == "#panel-events"
        await publish_planning(nats_server, b'{"title": "<b>hello</b>"}')
        async with asyncio.timeout(10):
            frame = json.loads(await socket.recv())
            while "beat" in frame:
                frame = json.loads(await socket.recv())
        assert frame["swap"] == "afterbegin"
        assert "&lt;b&gt;hello" in frame["content"]
        assert "<b>hello" not in frame["content"]


async def test_live_frames_are_equal_with_and_without_compression(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    await publish_planning(nats_server, *(json.dumps({"n": each}).encode() for each in range(30)))
    almenara.wait_for_events(30)
    url = live_url(almenara)
    async with (
        connect(url, origin=almenara.url) as deflated,  # type: ignore[arg-type]
        connect(url, origin=almenara.url, compression=None) as plain,  # type: ignore[arg-type]
    ):
        assert deflated.response is not None
        assert plain.response is not None
        agreed = deflated.response.headers["Sec-WebSocket-Extensions"]
        assert "server_no_context_takeover" in agreed
        assert "client_no_context_takeover" in agreed
        assert "Sec-WebSocket-Extensions" not in plain.response.headers
        assert await deflated.recv() == await plain.recv()
        # What a browser says is compressed too, and bounded in size once it is not.
        await deflated.send('{"resume": 1}' + " " * 1000)
        assert json.loads(await deflated.recv())["target"] == "#panel-events"
        await deflated.send('{"resume": 1}' + " " * 100_000)
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(10):
                while True:
                    await deflated.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_live_works_with_an_unsupported_uvicorn(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    begin = [sys.executable, "-c", UNSUPPORTED_UVICORN, "serve"]
    with Almenara(
        tmp_path / "other", nats_server.url, serve=begin, PANELS__OUTBOX_BYTES="20000"
    ) as other:
        assert "unsupported uvicorn version" in other.log
        url = live_url(other)
        async with connect(url, origin=other.url) as socket:  # type: ignore[arg-type]
            snapshot = json.loads(await socket.recv())
            assert snapshot["target"] == "#panel-events"
            await publish_planning(nats_server, b'{"title": "<b>hello</b>"}')
            async with asyncio.timeout(10):
                while "hello" not in json.loads(await socket.recv()).get("content", ""):
                    pass
            await socket.send('{"resume": 1}')
            assert json.loads(await socket.recv())["target"] == "#panel-events"
            for _ in range(40):
                await socket.send("nonsense")
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(10):
                    while True:
                        await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
        assert other.status("/healthz") == 200


async def test_live_disconnects_a_stalled_client_alone(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "a", nats_server.url, PANELS__SEND_TIMEOUT="0.5") as almenara:
        url = live_url(almenara)
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", almenara.port))
        stalled.sendall(
            (
                f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n"
                f"Origin: {almenara.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ).encode()
        )
        async with connect(url, origin=almenara.url) as reader:  # type: ignore[arg-type]
            wait_until(lambda: almenara.get("/api/health")["subscribers"] == 2, "both")
            filling = [json.dumps({"n": each, "x": "y" * 80}).encode() for each in range(100)]

            sent = 0
            async with asyncio.timeout(60):
                while almenara.get("/api/health")["subscribers"] == 2:
                    await publish_planning(nats_server, *filling)
                    sent += len(filling)
                    await asyncio.sleep(0.05)
            almenara.wait_for_events(sent)
            newest = almenara.get("/api/events?limit=1")["events"][0]["sequence"]
            shown = 0
            async with asyncio.timeout(20):
                while shown < newest:
                    frame = json.loads(await reader.recv())
                    sequences = re.findall(r'data-sequence="(\d+)"', frame.get("content", ""))
                    shown = max([shown, *map(int, sequences)])
        assert "almenara_slow_browsers_total 1.0" in almenara.text("/metrics")
        stalled.close()


async def test_live_closes_on_invalid_or_excessive_messages(idle_almenara: Almenara) -> None:
    url = live_url(idle_almenara)
    for messages, code in (
        (["not json"], 1008),
        (['{"other": 1}'], 1008),
        (['{"resume": 1}'] * 50, 1008),
        (["x" * 20_000], 1009),
    ):
        async with connect(url, origin=idle_almenara.url) as socket:  # type: ignore[arg-type]
            for message in messages:
                await socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(10):
                    while True:
                        await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code
    wait_until(lambda: idle_almenara.get("/api/health")["subscribers"] == 0, "no subscriber left")


async def test_live_refuses_connections_beyond_the_limit(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "a", nats_server.url, SERVER__MAX_WEBSOCKETS="2") as almenara:
        url = live_url(almenara)
        async with connect(url, origin=almenara.url), connect(url, origin=almenara.url):  # type: ignore[arg-type]
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, origin=almenara.url):  # type: ignore[arg-type]
                    pass
            assert refused.value.response.status_code == 503
        wait_until(lambda: almenara.get("/api/health")["subscribers"] == 0, "room again")
        async with connect(url, origin=almenara.url):  # type: ignore[arg-type]
            pass


async def test_shutdown_drains_in_time_despite_a_stalled_client(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    settings = {"SERVER__DRAIN_PERIOD": "2", "SERVER__TCP_USER_TIMEOUT": "3"}
    with Almenara(tmp_path / "a", nats_server.url, **settings) as almenara:
        url = live_url(almenara)
        sockets = [await connect(url, origin=almenara.url) for _ in range(10)]  # type: ignore[arg-type]
        stalled = socket.create_connection(("127.0.0.1", almenara.port))
        handshake = (
            f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n"
            f"Origin: {almenara.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        stalled.sendall(handshake.encode())
        wait_until(lambda: almenara.get("/api/health")["subscribers"] == 11, "all connected")
        ended: list[tuple[float, int]] = []

        async def closed(each: object) -> None:
            try:
                while True:
                    await each.recv()  # type: ignore[attr-defined]
            except ConnectionClosed as error:
                ended.append((time.monotonic(), error.rcvd.code if error.rcvd else 0))

        readiness: list[int] = []

        async def stop() -> None:
            stopping = asyncio.create_task(asyncio.to_thread(almenara.stop))
            while not readiness and not stopping.done():
                if await asyncio.to_thread(almenara.status, "/readyz") == 503:
                    readiness.append(503)
            assert await stopping == 0

        await asyncio.gather(stop(), *(closed(each) for each in sockets))
        stalled.close()
        assert readiness == [503]
        assert [code for _, code in ended] == [1012] * 10
        assert max(each for each, _ in ended) - min(each for each, _ in ended) > 1
        assert "almenara has stopped" in almenara.log


async def test_channel_that_cannot_be_opened_holds_up_no_other(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    # No query of events ends in so short a time.
    config = {"storage": {"query_timeout": 1e-6}}
    with Almenara(tmp_path / "slow", nats_server.url, config=config) as almenara:
        await publish_planning(nats_server, b"{}")
        url = f"{live_url(almenara)}&panel=sources"
        async with asyncio.timeout(20), connect(url, origin=almenara.url) as socket:  # type: ignore[arg-type]
            while json.loads(await socket.recv()).get("target") != "#panel-sources":
                pass
        wait_until(
            lambda: "\nalmenara_websocket_clients 0.0\n" in almenara.text("/metrics"),
            "the end of the page",
        )
