"""What sources cost: many HTTP checks, a large page of metrics, streams with a backlog."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import nats
from nats.js.api import StreamConfig
from results import Result, Size

from almenara.sdk.exposition import read_page
from almenara.signals import parse_time
from almenara_prometheus.settings import TargetSettings
from almenara_prometheus.target import Target, TargetState
from support.application import Almenara, program
from support.servers import NatsServer, accepts, free_port, wait_until

EVERY: Final = 15.0
"""Seconds between two requests of a check."""
PIN: Final = (
    "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a program on one core."""
SITE: Final = """
import asyncio, sys

count = 0

class Site(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        global count
        if data.startswith(b"GET /count"):
            body = str(count).encode()
        else:
            count += 1
            body = b"ok"
        head = b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
        self.transport.write(head + body)

async def main():
    server = await asyncio.get_running_loop().create_server(Site, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""
"""A site that counts its requests."""
STREAMS: Final = 10
MESSAGE: Final = 10_000
"""Bytes of a message of the backlog."""


def measure_checks(folder: Path, size: Size) -> Iterator[Result]:
    """HTTP checks on one core: whether they are on time, and what they take of it."""
    port = free_port()
    site = subprocess.Popen([sys.executable, "-c", SITE, str(port)])
    every = EVERY if size.checks > 100 else 1.0
    url = f"http://127.0.0.1:{port}/"
    checks = [{"name": f"c{n}", "url": url, "every": every} for n in range(size.checks)]
    try:
        wait_until(lambda: accepts(port), "the site")
        with Almenara(
            folder / "almenara", serve=[sys.executable, "-c", PIN, *program(), "serve"],
            plugins__disabled="[nats]", plugins__http__checks=json.dumps(checks),
        ) as almenara:  # fmt: skip
            wait_until(lambda: count_requests(port) >= size.checks, "a request of each check", 120)
            # All checks begin at once; jitter spreads them.
            time.sleep(every)
            requests, used, started = count_requests(port), seconds_used(almenara), time.monotonic()
            time.sleep(size.check_seconds)
            elapsed = time.monotonic() - started
            made = (count_requests(port) - requests) / elapsed
            share = (seconds_used(almenara) - used) / elapsed
            down = [
                resource["name"]
                for resource in almenara.get("/api/resources?kind=http.check&limit=1000")
                if resource["status"] == "down"
            ]
            assert not down, f"{len(down)} checks are down"
    finally:
        site.terminate()
        site.wait()
    due = size.checks / every
    name = f"{size.checks:,} HTTP checks every {every:g} s"
    yield Result(f"{name}, on time", f"{made:.1f}/s", f"{due:.1f}/s", made / due, "at least 0.95")
    yield Result(f"{name}, processor", f"{share:.2f} cores", "1 core", share, "at most 1")


def count_requests(port: int) -> int:
    """The requests that the site has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count", timeout=10) as response:
        return int(response.read())


def seconds_used(almenara: Almenara) -> float:
    """Seconds of processor that Almenara has used."""
    assert almenara.process is not None
    fields = (
        Path(f"/proc/{almenara.process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_page(_folder: Path, size: Size) -> Iterator[Result]:
    """Processor that one scrape of a large page of metrics takes."""
    body = make_page(size.page_bytes)
    settings = TargetSettings(name="large", url="http://127.0.0.1:1/", presets=["vllm", "process"])
    target = Target(settings, TargetState(), [])
    used = []
    for _ in range(5):
        started = time.process_time()
        signals = target.accept(read_page(body, target.mapper.filter), time.monotonic(), 0.1)
        used.append(time.process_time() - started)
        assert len(signals) > 3
    seconds = sorted(used)[len(used) // 2]
    name = f"metrics page of {len(body) / 1024**2:.1f} MiB"
    yield Result(name, f"{seconds:.2f} s of processor", "1 s", seconds, "at most 1")


def make_page(size: int) -> bytes:
    """A page as of a busy server: histograms of requests by path, and some metrics of a model."""
    lines = ["process_resident_memory_bytes 1.5e9"]
    for metric in ("num_requests_running", "kv_cache_usage_perc", "generation_tokens_total"):
        lines += [f'vllm:{metric}{{engine="{n}",model_name="qwen"}} 0.{n}' for n in range(4)]
    written = sum(map(len, lines)) + len(lines)
    number = 0
    while written < size:
        labels = f'method="GET",path="/api/v1/items/{number // 14}",status="200"'
        line = f'http_request_duration_seconds_bucket{{{labels},le="{number % 14}.0"}} {number}.0'
        lines.append(line)
        written += len(line) + 1
        number += 1
    return "\n".join(lines).encode() + b"\n"


def measure_backlog(folder: Path, size: Size) -> Iterator[Result]:
    """The time to read many streams with a backlog, against one with all of it; in turns, and the
    least of each, as one run of either depends on what the disk does meanwhile."""
    rounds = [
        (
            read_backlog(folder / f"many-{number}", STREAMS, size.backlog_bytes),
            read_backlog(folder / f"one-{number}", 1, size.backlog_bytes),
        )
        for number in range(size.backlog_rounds)
    ]
    many, one = map(min, zip(*rounds, strict=True))
    each = size.backlog_bytes / STREAMS / 1024**2
    name = f"{STREAMS} streams of {each:g} MB"
    yield Result(name, f"{many:.1f} s", f"{one:.1f} s as one stream", many / one, "at most 1.3")


def read_backlog(folder: Path, streams: int, size: int) -> float:
    """Seconds from the start of the source until every message is in history."""
    count = size // streams // MESSAGE
    with NatsServer(folder / "nats") as server:
        asyncio.run(fill_streams(server, streams, count))
        with Almenara(folder / "almenara", server.url) as almenara:
            expected = streams * count
            wait_until(lambda: almenara.stored() >= expected, "all messages", 300)
            assert almenara.stored() == expected
            assert "the server closed the connection" not in almenara.log
            started, ended = find_ingest_span(folder / "almenara" / "var" / "almenara.db", almenara)
    return ended - started


async def fill_streams(server: NatsServer, streams: int, count: int) -> None:
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    body = json.dumps({"event_type": "LOADED", "text": "x" * (MESSAGE - 60)}).encode()
    for number in range(streams):
        await jetstream.add_stream(StreamConfig(name=f"S{number}", subjects=[f"s.{number}"]))
        for start in range(0, count, 100):
            await asyncio.gather(
                *(
                    jetstream.publish(f"s.{number}", body, timeout=30)
                    for _ in range(start, min(start + 100, count))
                )
            )
    await client.close()


def find_ingest_span(path: Path, almenara: Almenara) -> tuple[float, float]:
    """When the source started, and when the last event was written."""
    started = next(
        json.loads(line) for line in almenara.log.splitlines() if "a source is running" in line
    )
    ended = max(path.stat().st_mtime, path.with_name("almenara.db-wal").stat().st_mtime)
    return parse_time(started["timestamp"]) / 1e6, ended
