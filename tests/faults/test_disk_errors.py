"""Errors of the disk itself: what cannot be written waits upstream, and is stored once later.

A library between the process and the system returns the errors, as a failing disk does.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until

SOURCE = Path(__file__).parent / "disk_errors.c"
COMPILER = shutil.which("cc")
MESSAGES = 400


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    if COMPILER is None:
        pytest.skip("no C compiler is installed")
    library = tmp_path_factory.mktemp("shim") / "disk_errors.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def problem_of(almenara: Almenara) -> str:
    """The storage problem in words, as the API reports it; empty without one."""
    return str(almenara.get("/api/health").get("write_problem") or "")


@pytest.mark.parametrize("fault", ["EIO\n", "EROFS\n", "EIO\nsync\n", "ENOSPC\n"])
def test_disk_errors_lose_and_double_nothing_and_are_reported(
    tmp_path: Path, shim: Path, fault: str
) -> None:
    control, folder = tmp_path / "control", tmp_path / "almenara"
    with NatsServer(tmp_path / "nats") as nats:
        client = RawClient(nats.port)
        client.make_stream("LOAD", "load")
        almenara = Almenara(folder, nats.url)
        almenara.environment |= {
            "LD_PRELOAD": str(shim),
            "FAILING_FOLDER": str(folder / "var"),
            "FAILING_CONTROL": str(control),
        }

        def publish(numbers: range) -> None:
            for number in numbers:
                client.publish("load", b'{"n": %d}' % number)
            client.flush()

        with almenara:
            publish(range(MESSAGES))
            almenara.wait_for_events(MESSAGES)
            control.write_text(fault)
            publish(range(MESSAGES, 2 * MESSAGES))
            wait_until(lambda: bool(problem_of(almenara)), "the problem", 30)
            # Another pod could not write either, and this one still shows what is stored.
            assert [almenara.status(path) for path in ("/healthz", "/readyz")] == [200, 200]
            problem = problem_of(almenara)
            assert "nothing is lost" in problem
            assert problem[:40] in almenara.log
            assert problem[:40] in almenara.text("/")
            # What is stored can be read all the while.
            stored = almenara.get("/api/events?limit=5&type=load")["events"]
            assert len(stored) == 5
            control.unlink()
            almenara.wait_for_events(2 * MESSAGES, 60)
            wait_until(lambda: not problem_of(almenara), "the end of the problem", 30)
            numbers = [event["data"]["n"] for event in almenara.events("?type=load")]
            assert numbers == list(range(2 * MESSAGES))
            assert almenara.stop() == 0
        client.close()
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    almenara.environment |= environment
    del almenara.environment["LD_PRELOAD"]
    checked = almenara.command("storage", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
