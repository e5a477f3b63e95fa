import asyncio
import json
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.application import Almenara
from support.origins import forged
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

LIVE = "ws://127.0.0.1:{port}/live?panel=events"


def origin(almenara: Almenara) -> str:
    return almenara.url


async def publish(server: NatsServer, *payloads: bytes) -> None:
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="PLANNING_EVENTS", subjects=["planning.>"]))
    for payload in payloads:
        await jetstream.publish("planning.a", payload)
    await client.close()


async def test_the_api_pages_filters_and_explains_what_it_refuses(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    await publish(nats_server, *(json.dumps({"n": it}).encode() for it in range(25)))
    almenara.wait_for_events(25)
    seen: list[int] = []
    path = "/api/events?limit=10"
    while path:
        page = almenara.get(path)
        seen += [it["data"]["n"] for it in page["events"]]
        path = page["older"]
    assert seen == list(range(24, -1, -1))
    first = almenara.get("/api/events?limit=1")["events"][0]
    assert almenara.get(f"/api/events/{first['sequence']}") == first
    assert [it["data"]["n"] for it in almenara.events()] == list(range(25))
    for path, status in (
        ("/api/events?sevrity=ERROR", 400),
        ("/api/events?severity=BAD", 400),
        ("/api/events?limit=0", 400),
        ("/api/events?after=x", 400),
        ("/api/events/999999", 404),
        ("/api/none", 404),
        ("/events?severity=BAD", 400),
        ("/events/999999", 404),
        ("/nowhere", 404),
    ):
        assert almenara.status(path) == status, path
    described = almenara.get("/api/openapi.json")
    assert {"/api/events", "/api/events.ndjson", "/api/resources"} <= set(described["paths"])


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/api/nowhere", 404, "application/problem+json"),
        ("POST", "/api/resources", 405, "application/problem+json"),
        ("GET", "/nowhere", 404, "text/html"),
        ("POST", "/events", 405, "text/html"),
    ],
)
def test_an_address_that_nothing_answers_says_so_to_programs_and_to_people(
    almenara: Almenara, method: str, path: str, status: int, kind: str
) -> None:
    asked = urllib.request.Request(
        almenara.url + path, method=method, headers={"origin": almenara.url}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=10)
    answer = refused.value
    assert answer.code == status
    assert answer.headers.get_content_type() == kind
    assert ("GET" in answer.headers.get("allow", "")) == (status == 405)
    assert "address" in answer.read().decode()


async def test_probes_and_metrics_answer(nats_server: NatsServer, almenara: Almenara) -> None:
    await publish(nats_server, b"{}", b"not json")
    almenara.wait_for_events(2)
    nats_server.stop()
    assert almenara.status("/healthz") == 200
    assert almenara.status("/readyz") == 200
    metrics = almenara.text("/metrics")
    assert 'almenara_source_events_total{source="nats"} 2.0' in metrics
    assert 'almenara_source_rejected_total{source="nats"} 1.0' in metrics
    assert "almenara_loop_lag_seconds" in metrics


async def test_a_page_of_another_origin_or_host_is_refused(almenara: Almenara) -> None:
    url = LIVE.format(port=almenara.port)
    for bad in ("https://evil.example", "null", f"http://localhost:{almenara.port}", None):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, origin=bad):  # type: ignore[arg-type]
                pass
        assert refused.value.response.status_code == 403
    async with connect(url, origin=origin(almenara)):  # type: ignore[arg-type]
        pass
    assert almenara.status("/api/health", Host="evil.example") == 400
    assert almenara.status("/api/health", Origin="https://evil.example") == 403


def test_forged_origins_open_no_socket_and_the_log_says_what_was_expected(
    almenara: Almenara,
) -> None:
    def answer(came: str | None) -> bytes:
        with socket.create_connection(("127.0.0.1", almenara.port), timeout=10) as raw:
            # Bytes that no header may hold are the business of the server, not of the decision.
            told = "" if came is None else f"Origin: {came}\r\n"
            raw.sendall(
                f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n{told}"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode("latin-1")
            )
            return raw.recv(12)

    assert answer(almenara.url) == b"HTTP/1.1 101"
    right = frozenset((almenara.url, almenara.url.replace("http:", "https:")))
    right |= {it.replace("127.0.0.1", "127.0.0.1.") for it in right}
    generated = forged("127.0.0.1", almenara.port, right, 11, 300)
    # A header's value has no blanks around it.
    tried = [it for it in generated if it.strip(" \t") == it]
    # The first of them, because the log leaves out what comes in floods.
    answers = {answer(it) for it in ["https://evil.example", *tried, None, "null"]}
    assert answers <= {b"HTTP/1.1 403", b"HTTP/1.1 400"}
    told = [json.loads(it) for it in almenara.log.splitlines() if '"https://evil.example"' in it]
    assert [it["origin"] for it in told] == ["https://evil.example"]
    assert '"error"' not in almenara.log
    assert told[0]["expected"] == [almenara.url, almenara.url.replace("http:", "https:")]
    print(f"{len(tried) + 3} handshakes of a forged origin, 0 accepted")


async def test_events_arrive_over_the_socket_as_rows(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    async with connect(LIVE.format(port=almenara.port), origin=origin(almenara)) as socket:  # type: ignore[arg-type]
        snapshot = json.loads(await socket.recv())
        assert snapshot["target"] == "#panel-events"
        await publish(nats_server, b'{"title": "<b>hello</b>"}')
        async with asyncio.timeout(10):
            frame = json.loads(await socket.recv())
            while "beat" in frame:
                frame = json.loads(await socket.recv())
        assert frame["swap"] == "afterbegin"
        assert "&lt;b&gt;hello" in frame["content"]
        assert "<b>hello" not in frame["content"]


async def test_compressed_or_not_the_frames_are_the_same_and_no_socket_keeps_a_context(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    await publish(nats_server, *(json.dumps({"n": it}).encode() for it in range(30)))
    almenara.wait_for_events(30)
    url = LIVE.format(port=almenara.port)
    async with (
        connect(url, origin=origin(almenara)) as deflated,  # type: ignore[arg-type]
        connect(url, origin=origin(almenara), compression=None) as plain,  # type: ignore[arg-type]
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


OTHER_UVICORN = """
from almenara import cli
from almenara.web import server
server.lacking = lambda: ["conn"]
cli.main()
"""


async def test_with_a_uvicorn_that_is_not_known_the_page_is_live_all_the_same(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    begin = [sys.executable, "-c", OTHER_UVICORN, "serve"]
    with Almenara(
        tmp_path / "other", nats_server.url, serve=begin, PANELS__OUTBOX_BYTES="20000"
    ) as other:
        assert "another than the one known" in other.log
        url = LIVE.format(port=other.port)
        async with connect(url, origin=origin(other)) as socket:  # type: ignore[arg-type]
            snapshot = json.loads(await socket.recv())
            assert snapshot["target"] == "#panel-events"
            await publish(nats_server, b'{"title": "<b>hello</b>"}')
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


async def test_a_client_that_reads_nothing_is_dropped_while_others_go_on(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "a", nats_server.url, PANELS__SEND_TIMEOUT="0.5") as almenara:
        url = LIVE.format(port=almenara.port)
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
        async with connect(url, origin=origin(almenara)) as reader:  # type: ignore[arg-type]
            wait_until(lambda: almenara.get("/api/health")["subscribers"] == 2, "both")
            filling = [json.dumps({"n": it, "x": "y" * 80}).encode() for it in range(100)]

            sent = 0
            async with asyncio.timeout(60):
                while almenara.get("/api/health")["subscribers"] == 2:
                    await publish(nats_server, *filling)
                    sent += len(filling)
                    await asyncio.sleep(0.05)
            almenara.wait_for_events(sent)
            newest = almenara.get("/api/events?limit=1")["events"][0]["sequence"]
            shown = 0
            async with asyncio.timeout(20):
                while shown < newest:
                    frame = json.loads(await reader.recv())
                    found = re.findall(r'data-sequence="(\d+)"', frame.get("content", ""))
                    shown = max([shown, *map(int, found)])
        assert "almenara_slow_browsers_total 1.0" in almenara.text("/metrics")
        stalled.close()


async def test_who_abuses_the_socket_is_closed_out(almenara: Almenara) -> None:
    url = LIVE.format(port=almenara.port)
    for messages, code in (
        (["not json"], 1008),
        (['{"other": 1}'], 1008),
        (['{"resume": 1}'] * 50, 1008),
        (["x" * 20_000], 1009),
    ):
        async with connect(url, origin=origin(almenara)) as socket:  # type: ignore[arg-type]
            for message in messages:
                await socket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(10):
                    while True:
                        await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == code
    wait_until(lambda: almenara.get("/api/health")["subscribers"] == 0, "no subscriber left")


async def test_connections_beyond_the_cap_are_refused_before_they_are_accepted(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "a", nats_server.url, SERVER__MAX_WEBSOCKETS="2") as almenara:
        url = LIVE.format(port=almenara.port)
        async with connect(url, origin=origin(almenara)), connect(url, origin=origin(almenara)):  # type: ignore[arg-type]
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, origin=origin(almenara)):  # type: ignore[arg-type]
                    pass
            assert refused.value.response.status_code == 503
        wait_until(lambda: almenara.get("/api/health")["subscribers"] == 0, "room again")
        async with connect(url, origin=origin(almenara)):  # type: ignore[arg-type]
            pass


async def test_it_drains_and_ends_in_time_though_a_client_reads_nothing(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    settings = {"SERVER__DRAIN_PERIOD": "2", "SERVER__TCP_USER_TIMEOUT": "3"}
    with Almenara(tmp_path / "a", nats_server.url, **settings) as almenara:
        url = LIVE.format(port=almenara.port)
        sockets = [await connect(url, origin=origin(almenara)) for _ in range(10)]  # type: ignore[arg-type]
        stalled = socket.create_connection(("127.0.0.1", almenara.port))
        handshake = (
            f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n"
            f"Origin: {almenara.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        stalled.sendall(handshake.encode())
        wait_until(lambda: almenara.get("/api/health")["subscribers"] == 11, "all connected")
        ended: list[tuple[float, int]] = []

        async def closed(it: object) -> None:
            try:
                while True:
                    await it.recv()  # type: ignore[attr-defined]
            except ConnectionClosed as error:
                ended.append((time.monotonic(), error.rcvd.code if error.rcvd else 0))

        began = time.monotonic()
        readiness: list[int] = []

        async def stop() -> None:
            stopping = asyncio.create_task(asyncio.to_thread(almenara.stop))
            while not readiness and not stopping.done():
                if await asyncio.to_thread(almenara.status, "/readyz") == 503:
                    readiness.append(503)
            assert await stopping == 0

        await asyncio.gather(stop(), *(closed(it) for it in sockets))
        stalled.close()
        assert readiness == [503]
        assert [code for _, code in ended] == [1012] * 10
        assert max(it for it, _ in ended) - min(it for it, _ in ended) > 1
        assert time.monotonic() - began < 15
        assert "almenara has stopped" in almenara.log


async def test_the_terminal_shows_hostile_events_and_obeys_none(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    nasty = "\x1b[2J\x9b31m\u202egpj.exe\u2066\x85\u200b\x00\r\n"
    body = {"event_type": f"BAD{nasty}", "title": nasty, nasty: [nasty]}
    for payload in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode()):
        await publish(nats_server, payload)
    almenara.wait_for_events(2)
    for options in ((), ("--json",)):
        done = almenara.command("tail", "--url", almenara.url, "--no-follow", *options)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.removesuffix("\n").split("\n")
        assert len(lines) == 2, done.stdout
        assert all(it.isprintable() for it in lines), lines
    assert [json.loads(it)["data"]["title"] for it in lines] == [nasty, nasty]


async def test_every_page_carries_a_strict_policy(almenara: Almenara) -> None:
    import urllib.request

    for path in ("/", "/events", "/sources", "/nowhere", "/healthz", "/api/health"):
        try:
            response = urllib.request.urlopen(almenara.url + path)
        except urllib.error.HTTPError as error:
            response = error
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["server"] is None


async def test_a_wrong_configuration_is_refused_with_what_to_do(tmp_path: Path) -> None:
    almenara = Almenara(tmp_path / "a", "nats://127.0.0.1:1")
    config = tmp_path / "almenara.yaml"
    for text, said in (
        ("server:\n  prot: 1\n", "did you mean port?"),
        ("server:\n  drain_period: many\n", "server.drain_period"),
        ("plugins:\n  nast: {}\n", "plugins.nast"),
        ("plugins:\n  nats:\n    stream: []\n", "did you mean streams?"),
        ("plugins:\n  nats:\n    start: yesterday\n", "start must be all, new"),
        ("plugins:\n  nats:\n    durable: a b\n", "durable must be"),
        ("a: [", "not YAML"),
    ):
        config.write_text(text)
        done = almenara.command("--config", str(config), "config", "check")
        assert done.returncode == 1
        assert said in " ".join(done.stderr.replace("│", " ").split()), done.stderr
