"""The servers of the soak, each a process behind a link, and the faults that they can have."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import yaml

from support.faulty_link import LIES, FaultyLink, Mode
from support.servers import accepts, executable, free_port, wait_until
from support.simulated_ray import PROGRAM as RAY_PROGRAM

PODS: Final = 40
PHRASE: Final = "soak test page"
"""What the page of the HTTP check contains; no lie does."""
PAGES_PROGRAM: Final = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = sys.argv[2].replace("NOW", f"{time.time():.3f}").encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A server that answers every request with a text, which may have the time."""

LINK_FAULTS: Final[tuple[Mode, ...]] = ("refuse", "reset", "silent", "half", "drip", "garbage")
AMBIGUOUS: Final = frozenset({"slow"})
"""Faults under which a server may be healthy or not."""


class Server:
    """A process behind a link; it keeps its port when it is started again."""

    faults: tuple[str, ...] = ("kill", "freeze", "slow", *LINK_FAULTS, *LIES)

    def __init__(self, name: str, folder: Path, command: Callable[[int], list[str]]) -> None:
        self.name, self.folder, self.port = name, folder, free_port()
        self.link = FaultyLink(self.port)
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start the process, without waiting for it to be ready."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self._command(self.port), stdout=log, stderr=log)

    def is_ready(self) -> bool:
        """Whether it accepts connections."""
        return accepts(self.port)

    def apply(self, fault: str) -> None:
        """Begin a fault."""
        assert self.process is not None
        if fault == "kill":
            self.process.kill()
            self.process.wait()
        elif fault == "freeze":
            os.kill(self.process.pid, signal.SIGSTOP)
        else:
            self.link.set(fault)  # type: ignore[arg-type]

    def heal(self, fault: str) -> None:
        """End a fault; return once the server answers."""
        assert self.process is not None
        if fault == "kill":
            self.start()
            wait_until(self.is_ready, f"{self.name} after a restart", 120)
        elif fault == "freeze":
            os.kill(self.process.pid, signal.SIGCONT)
        else:
            self.link.set("pass")

    def restore(self) -> None:
        """End whatever fault there is."""
        assert self.process is not None
        self.link.set("pass")
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
        else:
            self.heal("kill")

    def stop(self) -> None:
        """Stop the process, a frozen one too."""
        if self.process is None or self.process.poll() is not None:
            return
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Nats(Server):
    """A nats-server with JetStream."""

    faults = ("kill", "freeze", "slow", *LINK_FAULTS, "no-jetstream")

    def __init__(self, folder: Path) -> None:
        super().__init__("nats", folder, self._make_command)
        self._has_jetstream = True

    def _make_command(self, port: int) -> list[str]:
        config = self.folder / "nats.conf"
        store = f'jetstream {{ store_dir: "{self.folder / "data"}" }}\n'
        text = f'listen: "127.0.0.1:{port}"\nserver_name: soak\n'
        config.write_text(text + (store if self._has_jetstream else ""))
        return [executable("nats-server"), "--config", str(config)]

    def apply(self, fault: str) -> None:
        if fault != "no-jetstream":
            super().apply(fault)
            return
        self._restart(has_jetstream=False)

    def heal(self, fault: str) -> None:
        if fault != "no-jetstream":
            super().heal(fault)
            return
        self._restart(has_jetstream=True)

    def restore(self) -> None:
        if self._has_jetstream:
            super().restore()
        else:
            self._restart(has_jetstream=True)

    def _restart(self, *, has_jetstream: bool) -> None:
        self.stop()
        self._has_jetstream = has_jetstream
        self.start()
        wait_until(self.is_ready, "nats-server", 60)


class Kubernetes(Server):
    """A simulated Kubernetes cluster. It chooses its port, which the link follows."""

    def __init__(self, folder: Path) -> None:
        self.written = folder / "written.kubeconfig"
        super().__init__("kubernetes", folder, self._make_command)

    def _make_command(self, port: int) -> list[str]:
        self.written.unlink(missing_ok=True)
        module = ["-m", "almenara_demo.kubernetes_cluster", str(PODS), str(self.written)]
        return [sys.executable, *module]

    def is_ready(self) -> bool:
        if not self.written.exists():
            return False
        tree = yaml.safe_load(self.written.read_text("utf-8"))
        self.port = urlsplit(tree["clusters"][0]["cluster"]["server"]).port or 0
        self.link.target = self.port
        return accepts(self.port)

    def write_kubeconfig(self) -> Path:
        """Write the kubeconfig that leads to the link."""
        tree = yaml.safe_load(self.written.read_text("utf-8"))
        tree["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{self.link.port}"
        path = self.folder / "soak.kubeconfig"
        path.write_text(yaml.safe_dump(tree), "utf-8")
        return path


@contextlib.contextmanager
def run_servers(folder: Path) -> Iterator[tuple[dict[str, Server], dict[str, str]]]:
    """Run all servers; yields them by name, and the settings of Almenara that observe them."""

    def page(body: str) -> Callable[[int], list[str]]:
        return lambda port: [sys.executable, "-c", PAGES_PROGRAM, str(port), body]

    kubernetes = Kubernetes(folder)
    servers: dict[str, Server] = {
        "nats": Nats(folder),
        "kubernetes": kubernetes,
        "ray": Server(
            "ray", folder, lambda port: [sys.executable, "-c", RAY_PROGRAM, str(port)]
        ),
        "prometheus": Server("prometheus", folder, page("process_resident_memory_bytes NOW\n")),
        "http": Server("http", folder, page(PHRASE)),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for server in servers.values():
            stack.callback(server.stop)
            server.start()
        for name, server in servers.items():
            wait_until(server.is_ready, name, 60)
            stack.enter_context(server.link)
        url = {name: f"http://127.0.0.1:{server.link.port}" for name, server in servers.items()}
        yield servers, make_settings(url, kubernetes.write_kubeconfig())


def make_settings(url: dict[str, str], kubeconfig: Path) -> dict[str, str]:
    """Return the settings of Almenara; `url` has the address of each link."""
    target = {"name": "page", "url": f"{url['prometheus']}/metrics", "presets": ["process"],
              "every": 1, "timeout": 2}  # fmt: skip
    check = {"name": "site", "url": url["http"], "every": 1, "timeout": 2, "contains": PHRASE}
    cluster = {"kubeconfig": str(kubeconfig), "simulated": True}
    return {
        "plugins__nats__servers": json.dumps([url["nats"].replace("http", "nats")]),
        "plugins__kubernetes__clusters": json.dumps([cluster]),
        "plugins__kubernetes__usage_every": "5",
        "plugins__ray__clusters": json.dumps([{"name": "sim", "url": url["ray"]}]),
        "plugins__prometheus__targets": json.dumps([target]),
        "plugins__http__checks": json.dumps([check]),
    }
