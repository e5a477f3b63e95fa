"""One pod, and several on a shared bus: what the chart renders, and the upgrade between them."""

import base64
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.api_server import ApiError, ApiServer
from support.application import Almenara
from support.chart import engine
from support.chart.cluster import Cluster
from support.chart.engine import CHART, Tree, of_kind, only, workload
from support.chart.release import HelmError
from support.servers import NatsServer

NUMBERS = itertools.count(1)
SECRET = "a-secret-that-all-replicas-share-0123"
SHARED: Tree = {
    "replicaCount": 3,
    "config": {"bus": {"kind": "jetstream", "settings": {"replicas": 3}}},
}


@pytest.fixture
def cluster(programs: Path, api_server: ApiServer) -> Cluster:
    return Cluster(programs, api_server, api_server.namespace(f"replicas-{next(NUMBERS)}"))


@pytest.mark.parametrize("name", engine.value_sets())
def test_workload_never_runs_two_pods_on_an_embedded_bus(name: str) -> None:
    manifests = engine.rendered(name)
    server = workload(manifests)
    if "bus" in engine.configuration(manifests):
        return
    assert server["spec"]["replicas"] == 1
    (data,) = [
        item for item in server["spec"]["template"]["spec"]["volumes"] if item["name"] == "data"
    ]
    if "persistentVolumeClaim" in data:
        # A StatefulSet starts no pod before the one of the same name is known to be gone.
        assert server["kind"] == "StatefulSet"
    else:
        assert server["spec"]["strategy"] == {"type": "Recreate"}


def test_pods_have_a_volume_each_and_are_spread() -> None:
    manifests = engine.rendered("replicas")
    server = workload(manifests)
    assert (server["kind"], server["spec"]["replicas"]) == ("StatefulSet", 3)
    (template,) = server["spec"]["volumeClaimTemplates"]
    assert template["metadata"]["name"] == "data"
    assert template["metadata"]["labels"]["backup"] == "none"
    assert of_kind(manifests, "PersistentVolumeClaim") == []
    pod = server["spec"]["template"]["spec"]
    assert "data" not in {volume["name"] for volume in pod["volumes"]}
    constraints = pod["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in constraints] == [
        "topology.kubernetes.io/zone", "kubernetes.io/hostname",
    ]  # fmt: skip
    labels = server["spec"]["template"]["metadata"]["labels"]
    for each in constraints:
        assert each["labelSelector"]["matchLabels"].items() <= labels.items()
    budget = only(manifests, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    rules = only(manifests, "PrometheusRule")["spec"]["groups"][0]["rules"]
    names = {rule["alert"] for rule in rules}
    assert {"AlmenaraSnapshotUnusable", "AlmenaraReplicasDifferent"} <= names


def test_snapshots_have_space_on_the_volume() -> None:
    config = engine.configuration(engine.rendered("replicas"))
    sizes = [config[section]["retention_size"] for section in ("storage", "samples", "checkpoints")]
    assert 2 * sum(sizes) < 10 * 2**30


def test_bus_is_created_before_the_pods() -> None:
    manifests = engine.rendered("replicas")
    job = only(manifests, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    (migrate,) = pod["initContainers"]
    assert migrate["args"] == ["bus", "copy", "--to", "shared"]
    claims = [volume for volume in pod["volumes"] if volume["name"] == "data"]
    assert claims == [{"name": "data", "persistentVolumeClaim": {"claimName": "rel-almenara"}}]
    # What the Job refers to exists before it: hooks with a lower weight.
    hooks = {
        (each["kind"], each["metadata"]["name"])
        for each in manifests
        if each["metadata"].get("annotations", {}).get("helm.sh/hook-weight") == "-5"
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in hooks
    assert ("Secret", volumes["secret-bus"]["secret"]["secretName"]) in hooks
    assert ("ServiceAccount", pod["serviceAccountName"]) in hooks
    assert of_kind(engine.render({}), "Job") == []


def test_autoscaler_scales_the_workload() -> None:
    manifests = engine.rendered("autoscaling")
    server, scaler = workload(manifests), only(manifests, "HorizontalPodAutoscaler")
    assert "replicas" not in server["spec"]
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (server["kind"], server["metadata"]["name"])
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 4)
    kinds = [metric["type"] for metric in scaler["spec"]["metrics"]]
    assert kinds == ["Resource", "Pods"]
    assert server["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_one_pod_becomes_three(cluster: Cluster) -> None:
    """The API server accepts the upgrade of the guide, in which the StatefulSet is deleted first:
    its volumes cannot be changed."""
    cluster.helm.install(CHART, "rel", {})
    path = cluster.server.path("apps/v1", "StatefulSet", cluster.namespace, "rel-almenara")
    cluster.server.send("DELETE", path)
    # Without a controller of Jobs no hook would end.
    values: dict[str, Any] = {**SHARED, "streams": {"apply": False}}
    manifests = cluster.helm.upgrade(CHART, "rel", values)
    assert all(cluster.exists(manifest) for manifest in manifests)
    server = cluster.get("apps/v1", "StatefulSet", "rel-almenara")
    assert server["spec"]["replicas"] == 3
    assert server["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    budget = cluster.get("policy/v1", "PodDisruptionBudget", "rel-almenara")
    assert budget["spec"]["maxUnavailable"] == 1
    # The history stays in its claim, from which `migration.fromClaim` moves it.
    claim = cluster.get("v1", "PersistentVolumeClaim", "rel-almenara")
    assert "deletionTimestamp" not in claim["metadata"]
    scaled = {**values, "autoscaling": {"enabled": True, "targetConnectedPages": 5000}}
    cluster.helm.upgrade(CHART, "rel", scaled)
    scaler = cluster.get("autoscaling/v2", "HorizontalPodAutoscaler", "rel-almenara")
    assert scaler["spec"]["maxReplicas"] == 5
    cluster.helm.uninstall("rel")


def test_volumes_of_replicas_grow(cluster: Cluster) -> None:
    values: Tree = {
        **SHARED, "streams": {"apply": False}, "nats": {"enabled": True},
        "commonAnnotations": {"revision": "1"}, "persistence": {"size": "10Gi"},
    }  # fmt: skip
    cluster.helm.install(CHART, "rel", values)
    # An annotation that is new with every upgrade changes no template of claims.
    values["commonAnnotations"] = {"revision": "2"}
    cluster.helm.upgrade(CHART, "rel", {**values, "persistence": {"size": "10240Mi"}})
    for change, name, reason in (
        ({"persistence": {"size": "20Gi"}}, "rel-almenara", "size 20Gi instead of 10Gi"),
        ({"persistence": {"labels": {"a": "b"}}}, "rel-almenara", "other labels"),
        ({"persistence": {"annotations": {"a": "b"}}}, "rel-almenara", "other annotations"),
        ({"persistence": {"storageClass": "x"}}, "rel-almenara", "value of storageClassName"),
        ({"nats": {"enabled": True, "size": "30Gi"}}, "rel-almenara-nats", "size 30Gi instead"),
    ):
        with pytest.raises(HelmError) as refusal:
            cluster.helm.upgrade(CHART, "rel", {**values, **change})
        assert reason in str(refusal.value)
        assert f"delete statefulset {name} --cascade=orphan" in str(refusal.value)
    larger = {**values, "persistence": {"size": "20Gi"}}
    path = cluster.server.path("apps/v1", "StatefulSet", cluster.namespace, "rel-almenara")
    # There is no controller that would delete the pods.
    cluster.server.send("DELETE", path)
    cluster.helm.upgrade(CHART, "rel", larger)
    server = cluster.get("apps/v1", "StatefulSet", "rel-almenara")
    (template,) = server["spec"]["volumeClaimTemplates"]
    assert template["spec"]["resources"]["requests"]["storage"] == "20Gi"
    cluster.helm.uninstall("rel")


def test_shared_bus_is_refused_beside_the_old_statefulset(cluster: Cluster) -> None:
    cluster.helm.install(CHART, "rel", {})
    values: Tree = {**SHARED, "streams": {"apply": False}}
    with pytest.raises(HelmError, match="delete statefulset rel-almenara`"):
        cluster.helm.upgrade(CHART, "rel", values)
    cluster.helm.uninstall("rel")


@contextmanager
def hook_job(cluster: Cluster, claim: Path, folder: Path) -> Iterator[list[str]]:
    """Run the containers of the hook's Job with the product of this machine and the claim as a
    folder, as a node would; yields what they print."""
    outputs: list[str] = []
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(0.2):
            with suppress(ApiError):
                job = cluster.get("batch/v1", "Job", "rel-almenara-streams")
                run_job({**job, "apiVersion": "batch/v1", "kind": "Job"})
                return

    def run_job(job: Tree) -> None:
        pod = job["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        data = cluster.get("v1", "ConfigMap", volumes["config"]["configMap"]["name"])["data"]
        text = data["almenara.yaml"].replace("/data", str(claim))
        config = folder / "hook.yaml"
        config.write_text(text.replace("/etc/almenara", str(folder)))
        secret = cluster.get("v1", "Secret", volumes["secret-bus"]["secret"]["secretName"])
        mounted = folder / "secrets" / "bus"
        mounted.mkdir(parents=True)
        (mounted / "secret").write_bytes(base64.b64decode(secret["data"]["secret"]))
        for container in engine.containers(pod):
            done = subprocess.run(
                [engine.ALMENARA, *container["args"]],
                env={**os.environ, "ALMENARA_CONFIG": str(config)},
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            outputs.append(done.stdout + done.stderr)
            if done.returncode:
                return
        moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": moment, "lastProbeTime": moment}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"startTime": moment, "completionTime": moment, "succeeded": 1,
                  "uncountedTerminatedPods": {}, "conditions": conditions}  # fmt: skip
        cluster.server.patch_status(job, status)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield outputs
    finally:
        is_over.set()
        thread.join(180)


def product(cluster: Cluster, folder: Path, secrets: Path, storage: Path) -> Almenara:
    """The product with the configuration of the release."""
    data = cluster.get("v1", "ConfigMap", "rel-almenara")["data"]["almenara.yaml"]
    config = yaml.safe_load(data.replace("/etc/almenara", str(secrets)))
    config["storage"]["dir"] = str(storage)
    del config["server"]["port"]
    config["server"].update(host="127.0.0.1", drain_period=0.2)
    config["auth"] = {"mode": "insecure-none"}
    return Almenara(folder, config=config)


def of_fleet(almenara: Almenara) -> list[Tree]:
    """The events of the fleet, with their sequences."""
    return [event for event in almenara.events() if event["subject"] == "fleet.a"]


def test_history_moves_to_the_shared_bus(cluster: Cluster, tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as nats:
        streams = [{"name": "FLEET", "subjects": ["fleet.>"]}]
        plugins: Tree = {"nats": {"servers": [nats.url], "apply": streams}}
        cluster.helm.install(CHART, "rel", {"config": {"plugins": plugins}})
        claim = tmp_path / "claim"
        single = product(cluster, tmp_path / "one", tmp_path, claim)
        assert single.command("streams", "apply").returncode == 0
        assert single.command("publish", "fleet.a", '{"n": 1}').returncode == 0
        with single:
            single.wait_for_events(1, 60)
            before = of_fleet(single)
        assert len(before) == 1
        path = cluster.server.path("apps/v1", "StatefulSet", cluster.namespace, "rel-almenara")
        cluster.server.send("DELETE", path)
        values: Tree = {
            "replicaCount": 3,
            "config": {
                "bus": {
                    "kind": "jetstream",
                    "secret": {"file": "/etc/almenara/secrets/bus/secret"},
                    "settings": {"replicas": 1},
                },
                "plugins": plugins,
            },
            "secrets": {"bus": {"data": {"secret": SECRET}}},
            "migration": {"fromClaim": "rel-almenara"},
        }
        with hook_job(cluster, claim, tmp_path) as outputs:
            cluster.helm.upgrade(CHART, "rel", values)
        assert "start from a snapshot" in outputs[0]
        assert "ALMENARA_BUS: unchanged" in outputs[1]
        assert not cluster.exists(
            {"apiVersion": "v1", "kind": "Secret",
             "metadata": {"name": "rel-almenara-streams-bus", "namespace": cluster.namespace}}
        )  # fmt: skip
        with product(cluster, tmp_path / "three", tmp_path, tmp_path / "empty") as replica:
            assert of_fleet(replica) == before
        # The claim is left in the values of a later upgrade.
        (tmp_path / "later").mkdir()
        with hook_job(cluster, claim, tmp_path / "later") as outputs:
            cluster.helm.upgrade(CHART, "rel", values)
        assert "was moved to the shared log before" in outputs[0]
        assert "ALMENARA_BUS: unchanged" in outputs[1]
        with product(cluster, tmp_path / "four", tmp_path, tmp_path / "new") as replica:
            assert of_fleet(replica) == before
        cluster.helm.uninstall("rel")
