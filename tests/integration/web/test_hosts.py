"""The Host and Origin checks of the WebSocket."""

import json
import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.application import Almenara
from support.origins import forged
from support.planning_stream import live_url

pytestmark = pytest.mark.anyio


async def test_live_refuses_other_origins_and_hosts(idle_almenara: Almenara) -> None:
    url = live_url(idle_almenara)
    for bad in ("https://evil.example", "null", f"http://localhost:{idle_almenara.port}", None):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, origin=bad):  # type: ignore[arg-type]
                pass
        assert refused.value.response.status_code == 403
    async with connect(url, origin=idle_almenara.url):  # type: ignore[arg-type]
        pass
    assert idle_almenara.status("/api/health", Host="evil.example") == 400
    assert idle_almenara.status("/api/health", Origin="https://evil.example") == 403


def test_live_refuses_forged_origins_and_logs_the_expected_ones(
    almenara: Almenara,
) -> None:
    def answer(came: str | None) -> bytes:
        with socket.create_connection(("127.0.0.1", almenara.port), timeout=10) as raw:
            # Bytes that no header may hold are the business of the server, not of the decision.
            header = "" if came is None else f"Origin: {came}\r\n"
            raw.sendall(
                f"GET /live?panel=events HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n{header}"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode("latin-1")
            )
            return raw.recv(12)

    assert answer(almenara.url) == b"HTTP/1.1 101"
    right = frozenset((almenara.url, almenara.url.replace("http:", "https:")))
    right |= {each.replace("127.0.0.1", "127.0.0.1.") for each in right}
    generated = forged("127.0.0.1", almenara.port, right, 11, 300)
    # A header's value has no blanks around it.
    tried = [each for each in generated if each.strip(" \t") == each]
    # The first of them, because the log leaves out what comes in floods.
    answers = {answer(each) for each in ["https://evil.example", *tried, None, "null"]}
    assert answers <= {b"HTTP/1.1 403", b"HTTP/1.1 400"}
    refusals = [
        json.loads(line) for line in almenara.log.splitlines() if '"https://evil.example"' in line
    ]
    assert [entry["origin"] for entry in refusals] == ["https://evil.example"]
    assert '"error"' not in almenara.log
    assert refusals[0]["expected"] == [almenara.url, almenara.url.replace("http:", "https:")]
    print(f"{len(tried) + 3} handshakes of a forged origin, 0 accepted")
