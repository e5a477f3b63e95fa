"""`almenara demo --replicas 3`: a page follows the events while the replica that serves it is
killed, and resumes on another one."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.event_pages import EventPage
from support.servers import accepts, free_port, wait_until

pytestmark = pytest.mark.anyio

PATIENCE = 120.0
ROWS_AFTERWARDS = 40
STEADY = "nats/ORCHESTRATOR_EVENTS"
"""Some events a second. More than a page shows arrive at once of sources that start with an hour of
the past, and of busy streams after a replica has taken over."""


class Demo:
    """A running demo with three replicas."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.output = folder / "output"
        command = ["demo", "--replicas", "3", "--port", str(self.port), "--rate", "20"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "almenara", *command, "--data-dir", str(folder / "data")],
                stdout=output,
                stderr=output,
            )
        wait_until(lambda: "Press Ctrl-C" in self.output.read_text(), "the demo", PATIENCE)

    @property
    def replicas(self) -> dict[str, int]:
        """The ports of the replicas, by their names."""
        lines = re.findall(r"(replica-\d): http://127.0.0.1:(\d+)", self.output.read_text())
        return {name: int(port) for name, port in lines}

    def fetch(self, port: int, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            return ""

    def are_healthy(self) -> bool:
        """Whether no replica takes a source that another one runs for a problem."""
        answers = [self.fetch(port, "/api/health") for port in self.replicas.values()]
        pages = [self.fetch(port, "/sources") for port in self.replicas.values()]
        return all(text and json.loads(text)["status"] == "ok" for text in answers) and all(
            '<span class="quiet">on replica-' in page for page in pages
        )

    def find_serving(self) -> list[str]:
        """The replicas that have a page."""
        answers = {name: self.fetch(port, "/api/health") for name, port in self.replicas.items()}
        return [name for name, text in answers.items() if text and json.loads(text)["subscribers"]]

    def kill(self, name: str) -> None:
        """Kill a replica, as a crash would."""
        pid = int((self.folder / "data" / name / "almenara.lock").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.send_signal(signal.SIGINT)
            demo.process.wait(PATIENCE)


async def test_page_resumes_on_another_replica(demo: Demo) -> None:
    page = EventPage(demo.port, origin=STEADY)
    following = asyncio.create_task(page.run())
    try:
        await asyncio.to_thread(wait_until, lambda: len(page.sequences) > 20, "rows", PATIENCE)
        await asyncio.to_thread(wait_until, demo.are_healthy, "healthy replicas", PATIENCE)
        serving: list[str] = []

        def is_served() -> bool:
            serving[:] = demo.find_serving()
            return len(serving) == 1

        await asyncio.to_thread(wait_until, is_served, "the replica of the page", PATIENCE)
        demo.kill(serving[0])
        await asyncio.to_thread(wait_until, lambda: page.reconnects, "another replica", PATIENCE)
        expected = len(page.sequences) + ROWS_AFTERWARDS
        await asyncio.to_thread(
            wait_until, lambda: len(page.sequences) >= expected, "rows", PATIENCE
        )
    finally:
        following.cancel()
        await asyncio.wait([following])
    other = next(port for name, port in demo.replicas.items() if name != serving[0])
    first, last = page.sequences[0], page.sequences[-1]
    query = f"origin={STEADY}&after={first - 1}&before={last + 1}"
    lines = demo.fetch(other, f"/api/events.ndjson?{query}")
    history = [int(json.loads(line)["sequence"]) for line in lines.splitlines()]
    assert page.sequences == history
    assert not page.repeated
    await asyncio.to_thread(
        wait_until,
        lambda: demo.fetch(demo.replicas[serving[0]], "/readyz") == "ready\n",
        "the replica that was started again",
        PATIENCE,
    )
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(PATIENCE) == 0
    assert not any(map(accepts, [demo.port, *demo.replicas.values()]))
