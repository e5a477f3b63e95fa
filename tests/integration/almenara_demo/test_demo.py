"""`almenara demo` as a process: it starts, stops, and continues with its data."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from almenara_demo.fleet import ROLES
from support.servers import accepts, free_port, wait_until

PATIENCE = 120.0


def run_demo(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "almenara", "demo", "--port", str(port), "--rate", "100"]
    return subprocess.Popen(
        [*command, "--data-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def count_events(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as response:
            return int(json.load(response)["events_stored"])
    except OSError:
        return -1


def fetch_page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def test_demo_runs_stops_and_continues_with_its_data(tmp_path: Path) -> None:
    port = free_port()
    before = 0
    for _ in range(2):
        expected = before + 100
        demo = run_demo(tmp_path, port)
        try:
            wait_until(
                lambda expected=expected: count_events(port) > expected,
                "events of the fleet",
                PATIENCE,
            )
            # A Ray cluster that is marked as simulated, with a history and with running jobs.
            wait_until(
                lambda: all(
                    text in fetch_page(port, "/dashboards/ray")
                    for text in (">simulated<", 'data-status="RUNNING"', "median")
                ),
                "jobs of the simulated Ray cluster",
                PATIENCE,
            )
            wait_until(
                lambda: all(
                    text in fetch_page(port, "/dashboards/vllm")
                    for text in ("Simulated data", "simulated-7b", "queue")
                ),
                "the simulated vLLM server",
                PATIENCE,
            )
            wait_until(
                lambda: all(
                    text in fetch_page(port, "/dashboards/valkey")
                    for text in ("fleet-cache", "planners", "heartbeats")
                ),
                "the cache of the fleet",
                PATIENCE,
            )
            wait_until(
                lambda: all(
                    text in fetch_page(port, "/dashboards/neo4j.graph")
                    for text in ("Simulated data", "<circle", "Subtask")
                ),
                "the context graph",
                PATIENCE,
            )
            wait_until(
                lambda: any(
                    all(text in room for text in ('agents-tag">Ray job<', "on pod", "on node"))
                    for role in ROLES
                    if (room := fetch_page(port, f"/dashboards/agents.room?council={role}"))
                ),
                "the job of a deliberation with its pod and node",
                PATIENCE,
            )
            before = count_events(port)
            busy = run_demo(tmp_path / "other", port)
            output, _ = busy.communicate(timeout=PATIENCE)
            assert busy.returncode == 1
            assert b"is in use" in output
        finally:
            demo.send_signal(signal.SIGINT)
            output, _ = demo.communicate(timeout=PATIENCE)
        assert demo.returncode == 0, output
        assert f"http://127.0.0.1:{port}".encode() in output
        assert not accepts(port)
