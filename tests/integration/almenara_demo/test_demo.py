import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from support.servers import accepts, free_port, wait_until


def run_demo(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "almenara", "demo", "--port", str(port), "--rate", "100"]
    return subprocess.Popen(
        [*command, "--data-dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def stored(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as response:
            return int(json.load(response)["events_stored"])
    except OSError:
        return -1


def page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def test_the_demo_runs_ends_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    port = free_port()
    before = 0
    for _ in range(2):
        wanted = before + 100
        demo = run_demo(tmp_path, port)
        try:
            wait_until(lambda wanted=wanted: stored(port) > wanted, "events of the fleet")
            # A Ray cluster that says it is simulated, with a past and with jobs at work.
            wait_until(
                lambda: all(
                    text in page(port, "/dashboards/ray")
                    for text in (">simulated<", 'data-status="RUNNING"', "usually")
                ),
                "jobs of the simulated Ray cluster",
            )
            before = stored(port)
            busy = run_demo(tmp_path / "other", port)
            said, _ = busy.communicate(timeout=20)
            assert busy.returncode == 1
            assert b"is in use" in said
        finally:
            demo.send_signal(signal.SIGINT)
            said, _ = demo.communicate(timeout=30)
        assert demo.returncode == 0, said
        assert f"http://127.0.0.1:{port}".encode() in said
        assert not accepts(port)
