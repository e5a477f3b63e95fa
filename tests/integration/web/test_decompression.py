"""Little that decompresss into much: in what browsers send, and in what plugins fetch."""

import asyncio
import gzip
import http.server
import json
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.application import Almenara
from support.servers import wait_until

pytestmark = pytest.mark.anyio

MIB = 1024**2
UNFOLDED = 1024 * MIB
BOUND = 150
"""MiB that all of it together may take at most; one of them unfolded takes five times as much."""
ENCODINGS = ("gzip", "deflate", "br", "zstd", "gzip, gzip")


def bomb(size: int) -> bytes:
    """So many zeros, compressed to a thousandth; it breaks off where it should end."""
    packing = zlib.compressobj(6, zlib.DEFLATED, 31)
    block = bytes(16 * MIB)
    first = packing.compress(block) + packing.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the same zeros are the same bytes again.
    again = packing.compress(block) + packing.flush(zlib.Z_FULL_FLUSH)
    return first + again * (size // len(block) - 1)


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with the same few bytes, compressed in one way or another."""

    daemon_threads = True
    body = b""
    answers: Counter[str]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever does not read it to its end does right."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/version":
            body, encoding = b'{"major": "1", "minor": "34", "gitVersion": "v1.34.0"}', "identity"
        else:
            # Those who ask again meet all of them.
            self.server.answers[path] += 1
            encoding = ENCODINGS[self.server.answers[path] % len(ENCODINGS)]
            body = self.server.body
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-encoding", encoding)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.body, server.answers = bomb(UNFOLDED), Counter()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def peak(pid: int) -> float:
    """Peak resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return (
        int(next(each for each in status.splitlines() if each.startswith("VmHWM")).split()[1])
        / 1024
    )


def test_compressed_upstream_responses_are_bounded(tmp_path: Path, server: Server) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    kubeconfig = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": address}}],
        "users": [{"name": "it", "user": {"token": "secret-of-the-cluster"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    plugins = {
        "nats": None,
        "http": {"checks": [{"name": "it", "url": f"{address}/http", "every": 0.3,
                             "contains": "not there"}]},
        "prometheus": {"targets": [{"name": "it", "url": f"{address}/prometheus", "every": 0.3,
                                    "metrics": [{"metric": "a", "sample": "a", "kind": "b",
                                                 "name": "c"}]}]},
        "ray": {"clusters": [{"name": "it", "url": address}]},
        "kubernetes": {"clusters": [{"name": "it", "kubeconfig": str(tmp_path / "kubeconfig")}],
                       "backoff_first": 0.1},
    }  # fmt: skip
    settings = {
        f"PLUGINS__{name}__{key}": json.dumps(value)
        for name, each in plugins.items() if each
        for key, value in each.items()
    }  # fmt: skip
    with Almenara(
        tmp_path / "a", "nats://127.0.0.1:1", PLUGINS__DISABLED="[nats]", **settings
    ) as almenara:
        assert almenara.process is not None
        before = peak(almenara.process.pid)
        answers = server.answers

        def all_asked() -> bool:
            assert almenara.status("/healthz") == 200
            whole = {"/http", "/prometheus", "/api/v1/pods"} <= answers.keys()
            tried = min(answers[path] for path in ("/http", "/prometheus")) >= 2 * len(ENCODINGS)
            return whole and tried and any("/api/jobs" in path for path in answers)

        wait_until(all_asked, "everybody who fetches", 60)
        after = peak(almenara.process.pid)
        failing = [each for each in almenara.get("/api/resources") if each["severity"] == "ERROR"]
    print(
        f"{answers.total()} answers of {len(server.body) / MIB:.1f} MiB that decompress to"
        f" {UNFOLDED / MIB:.0f} MiB: {after - before:.0f} MiB more at most"
    )
    assert {each["origin"].split("/")[0] for each in failing} >= {"http", "prometheus", "ray"}
    assert after - before < BOUND


async def test_compressed_requests_are_bounded(tmp_path: Path) -> None:
    with Almenara(tmp_path / "a", "nats://127.0.0.1:1", PLUGINS__DISABLED="[nats]") as almenara:
        assert almenara.process is not None
        before = peak(almenara.process.pid)
        answers: Counter[int] = Counter()
        form = gzip.compress(bytes(60 * MIB))
        assert len(form) < 65_536
        async with httpx.AsyncClient(base_url=almenara.url) as client:
            for path in ("/sign-in", "/sign-out", "/account/tokens", "/api/events", "/live"):
                for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip"):
                    headers = {"content-encoding": encoding, "origin": almenara.url,
                               "content-type": "application/x-www-form-urlencoded"}  # fmt: skip
                    answer = await client.post(path, content=form, headers=headers)
                    answers[answer.status_code] += 1
        assert answers.keys() <= {400, 401, 403, 404, 405, 413, 415, 431}
        closed: Counter[int] = Counter()
        url = f"{almenara.url.replace('http', 'ws')}/live?panel=events"
        whole = "0" * (15 * MIB)
        for pieces in (1, 1, 1, 50, 50):
            async with connect(url, origin=almenara.url) as socket:  # type: ignore[arg-type]
                size = len(whole) // pieces
                parts = [whole[at : at + size] for at in range(0, len(whole), size)]
                with pytest.raises(ConnectionClosed) as end:
                    await socket.send(parts if pieces > 1 else whole)
                    async with asyncio.timeout(10):
                        while True:
                            await socket.recv()
                # A client that still sends to a closed connection gets a reset.
                closed[end.value.rcvd.code if end.value.rcvd else 1006] += 1
        assert closed.keys() <= {1009, 1006}
        assert closed[1009] >= 1
        assert almenara.status("/healthz") == 200
        after = peak(almenara.process.pid)
    print(
        f"{answers.total()} forms of {len(form)} bytes that decompress to 60 MiB, and"
        f" {closed.total()} messages to 15 MiB: {after - before:.1f} MiB more at most"
    )
    assert after - before < 8
