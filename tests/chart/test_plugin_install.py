"""Plugins that come from an index before the pod starts, by the command of the init container."""

import base64
import functools
import hashlib
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.authority import Authority
from support.chart import engine
from support.chart.engine import ALMENARA, Tree

PASSWORD = "a-password-that-only-this-test-knows"
"""Of the index; the netrc of a Secret holds it."""


class Index(http.server.SimpleHTTPRequestHandler):
    """A package index as files, for those who sign in."""

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"fleet:{PASSWORD}".encode()).decode()
        if self.headers["Authorization"] == expected:
            super().do_GET()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Pod:
    """What the init container finds in its volumes, with its command run on this machine."""

    def __init__(self, folder: Path, port: int, authority: Authority, wheel: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        self.port, self.authority = port, authority
        self.digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        self.site.mkdir(parents=True)
        (folder / "tmp").mkdir()
        (folder / "index").mkdir()

    def install(self, digest: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        netrc = f"machine 127.0.0.1\nlogin fleet\npassword {password}\n"
        (self.folder / "index" / "netrc").write_text(netrc)
        manifests = engine.render(self.values(digest))
        map_of = engine.only(manifests, "ConfigMap")
        (self.folder / "requirements.txt").write_text(map_of["data"]["requirements.txt"])
        (container,) = engine.workload(manifests)["spec"]["template"]["spec"]["initContainers"]
        assert container["command"][0] == "python"
        own = {each["name"]: self.placed(each["value"]) for each in container["env"]}
        return subprocess.run(
            [sys.executable, *container["command"][1:], *map(self.placed, container["args"])],
            # Nothing of this machine: neither its index nor its credentials.
            env={"PATH": os.defpath, "HOME": own["TMPDIR"], "PIP_CONFIG_FILE": os.devnull, **own},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def values(self, digest: str) -> Tree:
        return {
            "plugins": {
                "enabled": ["weather"],
                "settings": {"weather": {}},
                "install": {
                    "enabled": True,
                    "indexUrl": f"https://127.0.0.1:{self.port}/simple",
                    "existingSecret": "index",
                    "requirements": f"almenara-weather==0.1.0 --hash=sha256:{digest}",
                },
            },
            "extraEnv": [{"name": "PIP_CERT", "value": str(self.authority.path)}],
        }

    def placed(self, text: str) -> str:
        return text.replace("/etc/almenara", str(self.folder)).replace("/site", str(self.site))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin as its author makes it, built."""
    folder = tmp_path_factory.mktemp("weather")
    python = ALMENARA.with_name("python")
    for command in (
        [ALMENARA, "plugin", "new", "weather", "--into", folder / "source"],
        [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--wheel-dir", folder / "simple" / "almenara-weather",
         folder / "source"],
    ):  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (result,) = folder.glob("simple/almenara-weather/*.whl")
    return result


@pytest.fixture
def pod(tmp_path: Path, wheel: Path) -> Iterator[Pod]:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", server=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    handler = functools.partial(Index, directory=str(wheel.parents[2]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Pod(tmp_path / "pod", server.server_port, authority, wheel)
        server.shutdown()
        thread.join()


def test_plugin_installs_from_private_index(pod: Pod) -> None:
    # A second attempt, after one that was broken off, replaces what is there.
    (pod.site / "almenara_weather").mkdir()
    (pod.site / "almenara_weather" / "__init__.py").write_text("half of it")
    done = pod.install(pod.digest)
    assert done.returncode == 0, done.stderr
    assert not (pod.folder / "tmp" / "pip").exists()
    config = pod.folder / "almenara.yaml"
    manifests = engine.render(pod.values(pod.digest))
    text = json.dumps(engine.configuration(manifests)).replace("/data", str(pod.folder / "data"))
    config.write_text(text)
    server = engine.workload(manifests)["spec"]["template"]["spec"]["containers"][0]
    (path,) = [each["value"] for each in server["env"] if each["name"] == "PYTHONPATH"]
    done = subprocess.run(
        [ALMENARA, "--config", config, "plugins", "list", "--json"],
        env={"PATH": os.defpath, "PYTHONPATH": pod.placed(path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {each["name"] for each in json.loads(done.stdout) if each["state"] == "active"} == {
        "weather"
    }


def test_plugin_install_refuses_wrong_hash(pod: Pod) -> None:
    done = pod.install("0" * 64)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert list(pod.site.rglob("*.py")) == []


def test_plugin_install_hides_index_credentials(pod: Pod) -> None:
    done = pod.install(pod.digest, password="another-password")
    assert done.returncode != 0
    assert list(pod.site.rglob("*.py")) == []
    assert "another-password" not in done.stdout + done.stderr
