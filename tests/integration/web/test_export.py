"""Exports: one line an event, bounded memory, and few at a time."""

import contextlib
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.application import Almenara
from support.planning_stream import publish_planning
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

LARGE_EVENTS, LARGE_BYTES = 60, 900_000
MIB = 1024**2


def peak_memory(almenara: Almenara) -> int:
    """Bytes of memory that the process had at most."""
    assert almenara.process is not None
    status = Path(f"/proc/{almenara.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_ndjson_export_writes_pretty_printed_payloads_on_one_line(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    payloads = [b'{"a":1}\n', b'{\r\n  "text": "line\\nbreak",\n  "list": [\n1,\n2]\n}', b"{}"]
    await publish_planning(nats_server, *payloads)
    almenara.wait_for_events(len(payloads))
    lines = almenara.text("/api/events.ndjson").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["data"] for line in lines] == [json.loads(each) for each in payloads]


async def test_large_events_keep_the_memory_of_pages_and_exports_bounded(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    large = [
        json.dumps({"n": number, "text": "x" * LARGE_BYTES}).encode()
        for number in range(LARGE_EVENTS)
    ]
    await publish_planning(nats_server, *large)
    almenara.wait_for_events(LARGE_EVENTS)
    before = peak_memory(almenara)

    numbers: list[int] = []
    address = "/api/events?limit=400"
    while address:
        page = almenara.get(address)
        assert len(page["events"]) * LARGE_BYTES < 10 * MIB
        numbers += [event["data"]["n"] for event in page["events"]]
        address = page["older"]
    assert numbers == list(range(LARGE_EVENTS - 1, -1, -1))

    assert almenara.text("/events").count('class="event-link"') == LARGE_EVENTS

    request = f"GET /api/events.ndjson HTTP/1.1\r\nHost: 127.0.0.1:{almenara.port}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            unread = stack.enter_context(socket.create_connection(("127.0.0.1", almenara.port)))
            unread.sendall(request.encode())
            assert unread.recv(12) == b"HTTP/1.1 200"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(almenara.url + "/api/events.csv", timeout=10)
        assert refused.value.code == 503
        assert int(refused.value.headers["retry-after"]) > 0
        assert "exports" in json.loads(refused.value.read())["detail"]
        assert almenara.get("/api/health")["events_stored"] == LARGE_EVENTS
    wait_until(
        lambda: almenara.status("/api/events.csv?type=absent") != 503, "the end of an export"
    )
    assert [event["data"]["n"] for event in almenara.events()] == list(range(LARGE_EVENTS))
    assert peak_memory(almenara) - before < 80 * MIB
