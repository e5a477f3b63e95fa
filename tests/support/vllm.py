"""A stand-in for a vLLM server in a process of its own, so that it can be frozen and killed."""

import subprocess
import sys
from pathlib import Path
from typing import Final, Self

from support.server_process import ServerProcess
from support.servers import accepts, free_port, wait_until

SCRIPT: Final = """
import sys, time
from almenara_demo.simulated_vllm import SimulatedVllm

server = SimulatedVllm(started=int(time.time()))
server.port, server.api_key = int(sys.argv[1]), sys.argv[2]
with server:
    sys.stdin.read()
"""


class VllmServer(ServerProcess):
    """A server on loopback; it keeps its port when it is started again."""

    scheme = "http"

    def __init__(self, folder: Path, api_key: str = "") -> None:
        self.folder, self.port, self.api_key = folder, free_port(), api_key
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Self:
        command = [sys.executable, "-c", SCRIPT, str(self.port), self.api_key]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_until(lambda: accepts(self.port), "the vLLM server", 60)
        return self
