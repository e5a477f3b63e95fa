"""The chart in a real cluster's API server: Helm installs, upgrades, tests and removes it there.

There is no kubelet and no controller; where a pod must run, the test runs its commands for real.
"""

import asyncio
import base64
import contextlib
import itertools
import operator
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import httpx
import pytest
import yaml

from support.api_server import ApiError, ApiServer
from support.application import Almenara
from support.chart import engine
from support.chart.cluster import Cluster, define_gateway_api
from support.chart.engine import CHART, Tree
from support.chart.permissions import Permission, permissions
from support.chart.release import HelmError
from support.paths import ROOT
from support.servers import NatsServer, free_port

PREVIOUS = sorted((Path(__file__).parent / "previous").glob("*.tgz"))[-1]
WATCHING: Tree = {"plugins": {"enabled": ["nats", "kubernetes"]}}
TOKEN = "a-token-that-only-this-test-knows"
NUMBERS = itertools.count(1)
AT_ONCE = 4
"""Requests to the API server at the same time."""


@pytest.fixture
def cluster(programs: Path, api_server: ApiServer) -> Cluster:
    return Cluster(programs, api_server, api_server.namespace(f"chart-{next(NUMBERS)}"))


@pytest.fixture(scope="module")
def gateway_api(programs: Path, api_server: ApiServer) -> None:
    """Teach the API server the Gateway API, as its project defines it."""
    define_gateway_api(programs, api_server)


OPERATORS = {"Certificate", "ServiceMonitor", "PrometheusRule"}
"""Kinds of operators that are not there; test_rendering.py reads them as those do."""


@pytest.mark.usefixtures("gateway_api")
def test_api_server_accepts_every_value_set(api_server: ApiServer) -> None:
    """Server-side, with its validation and its defaults, and nothing left behind."""
    accepted: set[str] = set()
    for name, path in engine.value_sets().items():
        values = {**engine.read(path), "namespaceOverride": ""}
        accepted |= dry_run(api_server, engine.render(values), "watch", name)
    assert {"HTTPRoute", "Ingress", "StatefulSet", "Deployment", "Job"} <= accepted


@pytest.mark.usefixtures("gateway_api")
@pytest.mark.parametrize("word", ["2024", "1e3", "true", "null", "0x1f"])
def test_api_server_accepts_names_that_yaml_reads_as_other_types(
    api_server: ApiServer, word: str
) -> None:
    accepted: set[str] = set()
    for name, path in engine.value_sets().items():
        values = {**engine.read(path), "nameOverride": "", "namespaceOverride": ""}
        if "fullnameOverride" not in values:
            manifests = engine.render(values, name=word, namespace=word)
            accepted |= dry_run(api_server, manifests, word, name)
    assert {"HTTPRoute", "Ingress", "StatefulSet", "Deployment", "Job", "Service"} <= accepted


UNAVAILABLE = ("RuntimeClass", "PriorityClass", "not configured on this cluster")
"""What manifests may need that this API server does not have."""


def dry_run(server: ApiServer, manifests: list[Tree], namespace: str, name: str) -> set[str]:
    """Return the kinds of the manifests that the server accepts; it must accept all."""
    accepted: set[str] = set()
    known = [manifest for manifest in manifests if manifest["kind"] not in OPERATORS]
    for each in {namespace} | {item["metadata"].get("namespace", namespace) for item in known}:
        with contextlib.suppress(ApiError):
            server.namespace(each)
    for manifest in known:
        kind, metadata = manifest["kind"], manifest["metadata"]
        path = server.path(manifest["apiVersion"], kind, metadata.get("namespace"))
        try:
            server.send("POST", f"{path}?dryRun=All&fieldValidation=Strict", manifest)
            accepted.add(kind)
        except ApiError as error:
            assert any(part in str(error) for part in UNAVAILABLE), (name, error)
    return accepted


@pytest.mark.parametrize(
    "name", sorted(item.stem for item in (ROOT / "helm" / "examples").iterdir())
)
def test_helm_renders_the_same_manifests(cluster: Cluster, name: str) -> None:
    text = cluster.helm.template(CHART, "rel", engine.read(engine.value_sets()[name]))
    theirs = [item for item in yaml.safe_load_all(text) if item]
    values = engine.read(engine.value_sets()[name])
    ours = engine.render(values, namespace=cluster.namespace)
    by_name = operator.itemgetter("kind", "metadata")
    assert sorted(map(str, map(by_name, theirs))) == sorted(map(str, map(by_name, ours)))
    assert all(item in theirs for item in ours)


def test_release_installs_upgrades_rolls_back_and_uninstalls(cluster: Cluster) -> None:
    manifests = cluster.helm.install(CHART, "rel", WATCHING)
    assert [item["status"] for item in cluster.helm.history("rel")] == ["deployed"]
    assert {"StatefulSet", "Service", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim",
            "NetworkPolicy", "ClusterRole", "ClusterRoleBinding"} <= {
        item["kind"] for item in manifests
    }  # fmt: skip
    assert all(cluster.exists(item) for item in manifests)

    def checksum() -> str:
        workload = cluster.get("apps/v1", "StatefulSet", "rel-almenara")
        return str(workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    before = checksum()
    changed = {**WATCHING, "config": {"log": {"level": "debug"}}}
    cluster.helm.upgrade(CHART, "rel", changed)
    assert [item["revision"] for item in cluster.helm.history("rel")] == [1, 2]
    assert checksum() != before
    text = cluster.get("v1", "ConfigMap", "rel-almenara")["data"]["almenara.yaml"]
    assert yaml.safe_load(text)["log"] == {"level": "debug"}

    cluster.helm.rollback("rel", 1)
    assert checksum() == before
    assert [item["status"] for item in cluster.helm.history("rel")][-1] == "deployed"

    cluster.helm.uninstall("rel")
    left = [item["kind"] for item in manifests if cluster.exists(item)]
    # The history stays with its claim until someone deletes it.
    assert left == ["PersistentVolumeClaim"]


def test_upgrade_grows_the_volume(cluster: Cluster) -> None:
    growing = {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": f"growing-{cluster.namespace}"},
        "provisioner": "example.org/disk", "allowVolumeExpansion": True,
    }  # fmt: skip
    cluster.server.send("POST", "/apis/storage.k8s.io/v1/storageclasses", growing)
    values: Tree = {"persistence": {"storageClass": f"growing-{cluster.namespace}"}}
    cluster.helm.install(CHART, "rel", values)
    # As the volume controller does once there is a volume.
    claim = cluster.get("v1", "PersistentVolumeClaim", "rel-almenara")
    claim = {**claim, "apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    cluster.server.patch(claim, {"spec": {"volumeName": "volume"}})
    cluster.server.patch_status(claim, {"phase": "Bound", "capacity": {"storage": "10Gi"}})
    values["persistence"]["size"] = "20Gi"
    cluster.helm.upgrade(CHART, "rel", values)
    claim = cluster.get("v1", "PersistentVolumeClaim", "rel-almenara")
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    text = cluster.get("v1", "ConfigMap", "rel-almenara")["data"]["almenara.yaml"]
    assert yaml.safe_load(text)["storage"]["retention_size"] == 16 * 2**30
    cluster.helm.uninstall("rel")


def test_wrong_value_changes_nothing(cluster: Cluster) -> None:
    cluster.helm.install(CHART, "rel", {})
    with pytest.raises(HelmError, match="ingres"):
        cluster.helm.upgrade(CHART, "rel", {"ingres": {}})
    with pytest.raises(HelmError, match="additional properties"):
        cluster.helm.install(CHART, "other", {"replicas": 3})
    assert [item["status"] for item in cluster.helm.history("rel")] == ["deployed"]
    cluster.helm.uninstall("rel")


def test_previous_chart_upgrades_and_rolls_back(cluster: Cluster) -> None:
    assert helm_python.Chart.load(PREVIOUS).metadata["version"] == "0.1.0"
    cluster.helm.install(PREVIOUS, "rel", {})
    claim = cluster.get("v1", "PersistentVolumeClaim", "rel-almenara")["metadata"]["uid"]
    assert all(cluster.exists(item) for item in cluster.helm.upgrade(CHART, "rel", {}))
    cluster.helm.rollback("rel", 1)
    cluster.helm.upgrade(CHART, "rel", WATCHING)
    # Through all of it the history lies in the same claim.
    metadata = cluster.get("v1", "PersistentVolumeClaim", "rel-almenara")["metadata"]
    assert metadata["uid"] == claim
    cluster.helm.uninstall("rel")


def test_upgrade_adds_and_removes_a_volume(cluster: Cluster) -> None:
    cluster.helm.install(CHART, "rel", {})
    without = {"persistence": {"enabled": False}}
    manifests = cluster.helm.upgrade(CHART, "rel", without)
    assert "Deployment" in {item["kind"] for item in manifests}
    gone = {"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "rel-almenara", "namespace": cluster.namespace}}  # fmt: skip
    assert not cluster.exists(gone)
    cluster.helm.uninstall("rel")


def served(server: ApiServer) -> Iterator[tuple[str, str, bool, str]]:
    """Group, resource, whether namespaced, and verb of everything that the API server has."""
    groups = [("", "/api/v1")]
    for item in server.send("GET", "/apis")["groups"]:
        version = item["preferredVersion"]["groupVersion"]
        groups.append((item["name"], f"/apis/{version}"))
    for group, path in groups:
        for resource in server.send("GET", path)["resources"]:
            for verb in (*resource["verbs"], "escalate", "bind", "impersonate"):
                yield group, resource["name"], resource["namespaced"], verb


@pytest.fixture(scope="module")
def everyone_may(api_server: ApiServer) -> Callable[[Iterable[Permission]], dict[Permission, bool]]:
    """The permissions of every account, without the chart; each is requested once."""
    bare = api_server.service_account("default", "bare")
    known: dict[Permission, bool] = {}

    def answer(requested: Iterable[Permission]) -> dict[Permission, bool]:
        known.update(asyncio.run(may(api_server, bare, set(requested) - known.keys())))
        return known

    return answer


@pytest.mark.parametrize(
    "name", ["defaults", "kubernetes", "kubernetes-namespaces", "auth-kubernetes"]
)
def test_service_account_has_exactly_the_needed_permissions(
    cluster: Cluster,
    everyone_may: Callable[[Iterable[Permission]], dict[Permission, bool]],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for namespace in ("shop", "search", "elsewhere"):
        with contextlib.suppress(ApiError):
            cluster.server.namespace(namespace)
    values = engine.read(engine.value_sets()[name])
    manifests = cluster.helm.install(CHART, "rel", values)
    roles = [item for item in manifests if item["kind"] in ("Role", "ClusterRole")]
    granted = permissions(roles)
    token = cluster.server.token(cluster.namespace, "rel-almenara")
    # A resource of a rule is requested even if the server does not serve it.
    everything = {*served(cluster.server), *((g, r, True, v) for _, g, r, v in granted)}
    places = (
        ("shop", "elsewhere", cluster.namespace) if name == "kubernetes-namespaces" else ("shop",)
    )
    requested = [
        (namespace, group, resource, verb)
        for group, resource, namespaced, verb in sorted(everything)
        for namespace in (places if namespaced else ("",))
    ]
    everyone = everyone_may(requested)
    allowed = asyncio.run(may(cluster.server, token, requested))
    expected = {
        item: bool(granted & {item, ("", *item[1:])}) or everyone[item] for item in requested
    }
    wrong = [
        f"{item}: not {expected[item]}" for item in requested if allowed[item] is not expected[item]
    ]
    with capsys.disabled():
        print(
            f"\npermissions with {name}: {len(requested)} requested,"
            f" {len(granted)} granted, {len(wrong)} wrong"
        )
    assert wrong == []
    assert len(requested) > 500
    cluster.helm.uninstall("rel")


async def may(
    server: ApiServer, token: str, requested: Iterable[Permission]
) -> dict[Permission, bool]:
    """Return whether the account of a token has each permission, a few requests at a time.

    In one thread: httpx sets the protocols of a TLS context for each connection, which spoils
    the hello that another thread is about to send with the same context.
    """
    context = ssl.create_default_context(cafile=str(server.ca))
    few = asyncio.Semaphore(AT_ONCE)
    allowed: dict[Permission, bool] = {}

    async def ask(client: httpx.AsyncClient, right: Permission) -> None:
        namespace, group, resource, verb = right
        name, _, below = resource.partition("/")
        async with few:
            answer = await client.post(
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                headers={"Authorization": f"Bearer {token}"},
                json={
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {
                        "resourceAttributes": {
                            "namespace": namespace, "group": group, "resource": name,
                            "subresource": below, "verb": verb,
                        }
                    },
                },
            )  # fmt: skip
        answer.raise_for_status()
        allowed[right] = bool(answer.json()["status"]["allowed"])

    async with (
        httpx.AsyncClient(base_url=server.url, verify=context) as client,
        asyncio.TaskGroup() as group,
    ):
        for right in requested:
            group.create_task(ask(client, right))
    return allowed


class Kubelet:
    """Runs the commands of the containers of test pods and jobs, with the names of services known.

    What it can't give them is the image; the product of this machine stands in for it.
    """

    def __init__(self, cluster: Cluster, folder: Path, names: str) -> None:
        self.cluster, self.folder = cluster, folder
        self.hosts = folder / "hosts"
        self.hosts.write_text(f"127.0.0.1 localhost {names}\n")
        self.outputs: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _look(self) -> None:
        done: set[str] = set()
        path = f"/api/v1/namespaces/{self.cluster.namespace}/pods"
        server = ApiServerView(self.cluster.server)
        while not self._over.wait(0.2):
            for pod in server.send("GET", path)["items"]:
                if pod["metadata"]["uid"] not in done:
                    done.add(pod["metadata"]["uid"])
                    self._run(server, {**pod, "apiVersion": "v1", "kind": "Pod"})

    def _run(self, server: "ApiServerView", pod: Tree) -> None:
        codes: list[int] = []
        threads = [
            threading.Thread(target=lambda item=item: codes.append(self._container(pod, item)))
            for item in pod["spec"]["containers"]
        ]
        for item in threads:
            item.start()
        for item in threads:
            item.join()
        phase = "Failed" if any(codes) else "Succeeded"
        server.patch_status(pod, {"phase": phase})

    def _container(self, pod: Tree, container: Tree) -> int:
        config = self.cluster.get("v1", "ConfigMap", "rel-almenara")["data"]["almenara.yaml"]
        file = self.folder / f"{container['name']}.yaml"
        text = config.replace("/data", str(self.folder / "data"))
        file.write_text(text.replace("/etc/almenara", str(self.folder)))
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume:
                self._secret(volume["name"], volume["secret"]["secretName"])
        arguments = [
            item.replace("$(MARK)", pod["metadata"]["uid"]).replace(
                "/etc/almenara", str(self.folder)
            )
            for item in container["args"]
        ]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-euc",
             f'mount --bind {self.hosts} /etc/hosts; exec "$@"', "sh",
             str(engine.ALMENARA), *arguments],
            env={**os.environ, "ALMENARA_CONFIG": str(file), "COLUMNS": "200"},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        self.outputs.append(done.stdout + done.stderr)
        return done.returncode

    def _secret(self, volume: str, name: str) -> None:
        folder = self.folder / "secrets" / volume.removeprefix("secret-")
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in self.cluster.get("v1", "Secret", name)["data"].items():
            (folder / key).write_bytes(base64.b64decode(value))


class ApiServerView:
    """The API server for a thread of its own; its connections are of one thread each."""

    def __init__(self, server: ApiServer) -> None:
        self.send, self.patch_status = server.send, server.patch_status


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.mark.skipif(os.geteuid() != 0, reason="names of services need a mount namespace")
def test_helm_test_receives_event_over_websocket(
    cluster: Cluster, nats: NatsServer, tmp_path: Path
) -> None:
    port = free_port()
    values: dict[str, Any] = {
        "service": {"port": port},
        "test": {"subject": "fleet.test", "timeout": 30,
                 "tokenFile": "/etc/almenara/secrets/access/token"},
        "secrets": {"access": {"data": {"token": TOKEN}}},
        "config": {
            "auth": {"token": {"file": "/etc/almenara/secrets/access/token"}},
            "server": {"port": port, "drain_period": 0.2},
            "plugins": {"nats": {"servers": [nats.url],
                                 "apply": [{"name": "FLEET", "subjects": ["fleet.>"]}]}},
        },
    }  # fmt: skip
    cluster.helm.install(CHART, "rel", values)
    config = yaml.safe_load(cluster.get("v1", "ConfigMap", "rel-almenara")["data"]["almenara.yaml"])
    config["storage"]["dir"] = str(tmp_path / "data")
    (tmp_path / "token").write_text(TOKEN)
    config["auth"]["token"]["file"] = str(tmp_path / "token")
    service = f"rel-almenara.{cluster.namespace}.svc.cluster.local"
    product = Almenara(tmp_path / "product", config=config)
    done = product.command("streams", "apply")
    assert done.returncode == 0, done.stderr
    with product, Kubelet(cluster, tmp_path, service) as kubelet:
        cluster.helm.test("rel")
        output = " ".join("\n".join(kubelet.outputs).split())
        assert "is ready" in output
        assert "arrived over the WebSocket" in output
        assert "pages of other sites are refused" in output
        assert "Stored in FLEET" in output
    # And it fails where nothing serves.
    with Kubelet(cluster, tmp_path, service) as kubelet:
        values["test"]["timeout"] = 2
        cluster.helm.upgrade(CHART, "rel", values)
        with pytest.raises(HelmError):
            cluster.helm.test("rel")
        assert any("no Almenara responds" in " ".join(item.split()) for item in kubelet.outputs)
    cluster.helm.uninstall("rel")
