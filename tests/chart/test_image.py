"""The image, built from its Dockerfile and run as a cluster runs it: another user, a root that
no one can write, and nothing but the volumes of the pod.

It needs root and buildah, and skips where either is missing.
"""

import json
import os
import shlex
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from support.application import Almenara
from support.chart import engine
from support.chart.engine import render, workload
from support.chart.image import POSSIBLE, WHY_NOT, Image, run_in
from support.servers import free_port, wait_until

LARGEST = 180 * 1024**2
LAZY = shlex.quote(
    "import almenara_kubernetes.source, almenara_kube.credentials,"
    " almenara.security.kubernetes, almenara.security.oidc, almenara_nats.source,"
    " almenara_http.source, almenara_prometheus.source, almenara_valkey.source,"
    " almenara_vllm.source, almenara_neo4j.source, almenara_notifiers.slack,"
    " almenara_notifiers.mail"
)
"""What is imported only when it is needed."""

pytestmark = pytest.mark.skipif(not POSSIBLE, reason=WHY_NOT)


def size(folder: Path) -> int:
    """Bytes that a folder takes, links counted once."""
    seen: dict[tuple[int, int], int] = {}
    for top, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = (Path(top) / name).lstat()
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def test_image_size_is_bounded(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    own = image.root / "opt" / "almenara"
    total = size(own)
    packages = next(own.glob("lib/python3*/site-packages"))
    largest = sorted(
        ((size(each), each.name) for each in packages.iterdir() if each.is_dir()), reverse=True
    )
    with capsys.disabled():
        summary = ", ".join(f"{name} {taken / 2**20:.0f}" for taken, name in largest[:6])
        print(f"\nimage: {total / 2**20:.0f} MiB beyond the base, of them {summary}")
    assert total < LARGEST


def test_image_has_no_build_tools(image: Image) -> None:
    packages = next((image.root / "opt" / "almenara").glob("lib/python3*/site-packages"))
    names = {each.name.partition("-")[0] for each in packages.iterdir()}
    assert not names & {"pip", "setuptools", "wheel", "hatchling", "nats_server", "pytest"}
    assert {"almenara", "nats", "uvloop"} <= names
    assert not (image.root / "build").exists()
    # Those of libraries would be tools for whoever gets in.
    commands = {each.name for each in (image.root / "opt" / "almenara" / "bin").iterdir()}
    assert {each for each in commands if not each.startswith("python")} == {"almenara"}


def test_image_imports_all_modules(image: Image, tmp_path: Path) -> None:
    command, _ = run_in(image, tmp_path, "plugins", "list", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    active = {each["name"] for each in json.loads(done.stdout) if each["state"] == "active"}
    # The default values disable the others, whose imports are looked at next.
    assert {"nats", "http", "prometheus"} <= active
    python = [*command[:4], command[4].rpartition("almenara plugins")[0] + "python -c " + LAZY]
    done = subprocess.run(python, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_image_labels_and_user(image: Image) -> None:
    labels = image.config["Labels"]
    assert isinstance(labels, dict)
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}" in labels
    assert image.config["User"] == "10001:10001"
    assert image.config["Entrypoint"] == ["almenara"]
    chart = yaml.safe_load((engine.CHART / "Chart.yaml").read_text("utf-8"))
    assert labels["org.opencontainers.image.version"] == chart["appVersion"]


def test_image_serves_read_only_as_other_user(image: Image, tmp_path: Path) -> None:
    port = free_port()
    command, data = run_in(image, tmp_path, "serve", port=port)
    server = workload(render({}))["spec"]["template"]["spec"]["containers"][0]
    with Almenara(
        tmp_path / "product", config={"server": {"port": port}}, serve=command
    ) as product:
        assert product.process is not None
        status = Path(f"/proc/{product.process.pid}/status").read_text()
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(facts["Uid"].split()) == {"10001"}
        assert int(facts["CapEff"], 16) == 0
        assert facts["NoNewPrivs"] == "1"
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = server[name]
            with urllib.request.urlopen(
                product.url + probe["httpGet"]["path"], timeout=probe["timeoutSeconds"]
            ) as response:
                assert response.status == 200
        # What makes up examples is left out; the description of the API is whole without them.
        assert json.loads(product.text("/api/openapi.json"))["paths"]
        assert (data / "almenara.db").exists() or any(data.glob("almenara.*"))
        with pytest.raises(OSError, match="Read-only file system"):
            (Path(f"/proc/{product.process.pid}/root") / "opt" / "almenara" / "x").write_text("")
        os.kill(product.process.pid, signal.SIGTERM)
        begin = time.monotonic()
        wait_until(lambda: product.status("/readyz") in (503, 0), "readiness that fails")
        assert product.stop() == 0
        grace = workload(render({}))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert time.monotonic() - begin < grace


def test_image_build_is_reproducible(image: Image, image_work: Path) -> None:
    again = Image(image_work, "again", "--no-cache", "--timestamp", "1700000000")
    assert again.layers[1:] == image.layers[1:]


def test_image_build_has_requested_plugins(image_work: Path, tmp_path: Path) -> None:
    image = Image(image_work, "small", "--build-arg", "EXTRAS=http")
    command, _ = run_in(image, tmp_path, "plugins", "list", "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {each["name"] for each in json.loads(done.stdout) if each["state"] == "active"} == {
        "http"
    }
    # A configured plugin that the image lacks is reported before it is imported.
    command, _ = run_in(image, tmp_path / "oidc", "config", "check")
    oidc = {"issuer": "https://accounts.example.org", "client_id": "almenara"}
    auth = {"mode": "oidc", "oidc": oidc, "roles": [{"role": "viewer", "groups": ["*"]}]}
    (tmp_path / "oidc" / "almenara.yaml").write_text(yaml.safe_dump({"auth": auth}))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "a container image with the extra oidc" in " ".join(done.stderr.replace("│", "").split())
