"""docs/operations, done as it is written: every command, in its order, in a cluster.

The API server, the controllers, helm and kubectl are real; node.py runs the pods, from the image.
"""

import contextlib
import datetime
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.cert_manager import v1 as cert_manager

from support.api_server import ApiServer
from support.chart import engine
from support.chart.engine import ALMENARA
from support.chart.image import Image
from support.chart.node import Node
from support.nats_credentials import JWT_BLOCK, SEED_BLOCK
from support.paths import ROOT
from support.raw_nats import RawClient
from support.servers import NatsServer, free_port, wait_until

README = engine.CHART / "README.md"
DOCUMENTS = ROOT / "docs" / "operations"
NAMESPACE, HOST = "almenara", "almenara.example.org"
POD = "198.51.100.8"
NOT_RUN = {
    "docker ": "There is no Docker daemon; test_image.py builds and runs the same with buildah.",
    "almenara doctor --url https://": "It asks a host of its own; test_ingress.py runs it there.",
    "curl ": "Samples are tested in web/test_samples_api.py, pushes in web/test_intake.py.",
    "almenara access create ci-main": "It is for the pushes of web/test_intake.py.",
    "almenara backup ": "cli/test_backup.py runs it.",
    "almenara restore ": "cli/test_backup.py runs it.",
    "almenara export ": "cli/test_export.py reads what it writes.",
    "kubectl --namespace almenara delete statefulset": "test_replicas.py upgrades to several pods.",
    "kubectl --namespace almenara patch pvc": "No volume grows here; test_replicas.py goes on.",
    "helm upgrade almenara helm/almenara --namespace almenara --values replicas": "As above.",
    "export OTEL_": "The exporter of the SDK is tested in web/test_intake_otlp.py.",
    "export RAY_": "The export of a real Ray is tested in ray/test_event_export.py.",
}
"""How commands begin that are not run here, and why."""


pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("ip", "nsenter", "kubectl"))), reason="needs ip, nsenter and kubectl"
)


def blocks(document: str, language: str) -> list[str]:
    """The fenced texts of a document, in their order."""
    text = (DOCUMENTS / f"{document}.md").read_text("utf-8")
    result = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", each, flags=re.MULTILINE) for indent, each in result]


def commands(text: str) -> list[str]:
    """Single commands of a block, with the lines that go on joined."""
    return re.sub(r"\\\n\s*", "", text).strip().splitlines()


def made(printed: str) -> str:
    """The access token among what commands print."""
    return re.findall(r"^\s*([A-Za-z0-9_-]{30,})\s*$", printed, re.MULTILINE)[0]


class Operator:
    """An operator with a shell, a copy of the repository, helm and kubectl."""

    def __init__(self, folder: Path, programs: Path, server: ApiServer, nats: NatsServer) -> None:
        self.folder, self.port, self.failures = folder, free_port(), list[str]()
        self.done: list[str] = []
        self.environment = {
            "PATH": os.pathsep.join((str(programs), str(ALMENARA.parent), os.environ["PATH"])),
            "KUBECONFIG": str(server.admin_kubeconfig), "HOME": str(folder),
        }  # fmt: skip
        folder.mkdir()
        (folder / "helm").mkdir()
        (folder / "helm" / "almenara").symlink_to(engine.CHART)
        # Who installs it starts with an example and changes the host and the address of NATS. Here
        # the port as well: the ports of services are those of pods, and 8080 may be taken.
        example = folder / "helm" / "examples" / "ingress-nginx-cert-manager.yaml"
        example.parent.mkdir()
        self.values: dict[str, Any] = engine.read(ROOT / "helm" / "examples" / example.name)
        self.values["config"]["server"].update(port=self.port, drain_period=1)
        self.values["service"] = {"port": self.port}
        self.values["config"]["plugins"]["nats"]["servers"] = [nats.url]
        example.write_text(yaml.safe_dump(self.values))

    def runs(self, text: str) -> str:
        """What a block of commands prints; it ends with the first that fails."""
        expected = [each for each in commands(text) if not each.startswith(tuple(NOT_RUN))]
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", "\n".join(expected)], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for _ in range(240):
            # What went wrong on the node is the better message than a command that waits.
            assert self.failures == []
            with contextlib.suppress(subprocess.TimeoutExpired):
                printed, complaints = process.communicate(timeout=1)
                break
        else:
            process.kill()
            printed, complaints = process.communicate()
        assert process.returncode == 0, f"{text}\n{printed[-2000:]}\n{complaints[-2000:]}"
        self.done += expected
        return printed


class Publisher:
    """Numbered events, one after the other until it is stopped."""

    def __init__(self, nats: NatsServer) -> None:
        self.published, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._publish, args=(nats,))

    def _publish(self, nats: NatsServer) -> None:
        client = RawClient(nats.port)
        while not self._over.wait(0.01):
            client.publish("fleet.n", b'{"event_type": "NUMBERED", "n": %d}' % self.published)
            self.published += 1
        client.close()

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        client = RawClient(server.port)
        client.make_stream("FLEET", "fleet.>")
        client.close()
        yield server


def test_operations_guide_works_as_written(
    own_api_server: ApiServer,
    programs: Path,
    image: Image,
    nats: NatsServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = own_api_server
    operator = Operator(tmp_path / "operator", programs, server, nats)
    with Node(server, programs, tmp_path / "node", image, address=POD, namespace=NAMESPACE) as node:
        operator.failures = node.failures
        node.knows("almenara")
        # What the example names: a Secret with the credentials for NATS, made before.
        server.namespace(NAMESPACE)
        (tmp_path / "watch.creds").write_text(JWT_BLOCK + SEED_BLOCK)
        operator.runs(
            f"kubectl --namespace {NAMESPACE} create secret generic nats-credentials"
            f" --from-file {tmp_path / 'watch.creds'}"
        )
        token = ""

        def held() -> list[int]:
            """The numbers of the events in history, by the API."""
            request = urllib.request.Request(
                f"http://{POD}:{operator.port}/api/events.ndjson?type=NUMBERED",
                headers={"Authorization": f"Bearer {token}", "Host": HOST},
            )
            # A token that another process made a moment ago is good.
            with urllib.request.urlopen(request, timeout=30) as response:
                return sorted(json.loads(line)["data"]["n"] for line in response)

        installing, looking = (each for each in blocks("install", "sh") if "docker" not in each)
        with Publisher(nats) as publisher:
            begin = time.monotonic()
            notes = operator.runs(installing)
            output = operator.runs(looking)
            took = time.monotonic() - begin
            with capsys.disabled():
                print(f"\noperations: installed, rolled out, examined and tested in {took:.0f} s")
            assert "rolling update complete" in output
            assert "Phase:          Succeeded" in output
            # The notes of the release have commands as well.
            noted = re.findall(r"^  ((?:kubectl|helm) .*)$", notes, re.MULTILINE)
            assert f"https://{HOST}/" in notes
            token = made(operator.runs("\n".join(noted)))
            wait_until(lambda: len(held()) > 50, "events in history")

            # An upgrade that replaces the pod, while events go on.
            (operator.folder / "values.yaml").write_text(
                yaml.safe_dump({**operator.values, "podLabels": {"team": "fleet"}})
            )
            before = server.send("GET", server.path("v1", "Pod", NAMESPACE, "almenara-0"))
            upgrading, *_ = blocks("upgrade", "sh")
            operator.runs(upgrading)
            operator.runs(commands(looking)[0])
            after = server.send("GET", server.path("v1", "Pod", NAMESPACE, "almenara-0"))
            assert after["metadata"]["uid"] != before["metadata"]["uid"]
            assert after["metadata"]["labels"]["team"] == "fleet"

            copying, restoring, checking_storage = (
                each for each in blocks("backup", "sh") if each.startswith(("pod=", "kubectl"))
            )
            in_copy = publisher.published
            wait_until(lambda: len(held()) >= in_copy, "what was before the backup")
            operator.runs(copying)
            later = publisher.published + 50
            wait_until(lambda: publisher.published > later, "events after the backup")
        wait_until(lambda: len(held()) == publisher.published, "every event in history")
        assert held() == list(range(publisher.published))

        # The volume is lost, and the stream has forgotten what was before the backup.
        assert not list(node.claims.glob("*/backup.db"))
        operator.runs("\n".join(commands(restoring)[:2]))
        shutil.rmtree(node.claims / "almenara")
        client = RawClient(nats.port)
        client.request("$JS.API.STREAM.PURGE.FLEET", json.dumps({"seq": in_copy + 1}).encode())
        client.close()
        today = datetime.datetime.now().astimezone().date().isoformat()
        (operator.folder / f"almenara-{today}.db").rename(
            operator.folder / "almenara-2026-01-31.db"
        )
        (pod,) = (each for each in blocks("backup", "yaml") if "kind: Pod" in each)
        (operator.folder / "restore.yaml").write_text(pod)
        operator.runs(restoring)
        operator.runs(commands(looking)[0])
        # The volume had the tokens as well, so they are created again.
        token = made(operator.runs("\n".join(each for each in noted if "rotate" in each)))
        wait_until(lambda: len(held()) >= publisher.published, "every event after the restore", 60)
        assert held() == list(range(publisher.published))

        assert "are readable" in operator.runs(checking_storage)
        (checking,) = blocks("troubleshooting", "sh")
        assert "NATS" in operator.runs(checking)
        operator.runs(f"helm rollback almenara 1 --namespace {NAMESPACE}")
        operator.runs(commands(looking)[0])
        operator.runs(f"helm uninstall almenara --namespace {NAMESPACE}")
        wait_until(
            lambda: not server.send("GET", server.path("v1", "Pod", NAMESPACE))["items"],
            "the end of the pod",
        )
        # The history outlives the release.
        assert server.send("GET", server.path("v1", "PersistentVolumeClaim", NAMESPACE, "almenara"))
        assert node.failures == []
    # The README of the chart has an installation as well; this one finds the claim that was kept.
    (short,) = re.findall(r"^```sh\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    assert f"https://{HOST}/" in operator.runs(short)
    left = [
        each
        for document in sorted(DOCUMENTS.glob("*.md"))
        for block in blocks(document.stem, "sh")
        for each in commands(block)
        if each not in operator.done and not each.startswith(tuple(NOT_RUN))
    ]
    assert left == []


@pytest.mark.parametrize("document", sorted(each.stem for each in DOCUMENTS.glob("*.md")))
def test_chart_accepts_yaml_of_operations_guide(document: str) -> None:
    for text in blocks(document, "yaml"):
        manifest = yaml.safe_load(text)
        if "apiVersion" not in manifest:
            # Settings of the application are below `config` of the chart.
            is_settings = not manifest.keys() <= engine.read(engine.CHART / "values.yaml").keys()
            engine.render({"config": manifest} if is_settings else manifest)
        elif manifest["kind"] == "ClusterIssuer":
            read = cert_manager.ClusterIssuer.model_validate(manifest)
            assert json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)) == manifest
        else:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
