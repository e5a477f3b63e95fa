"""One pod, and several on a shared bus: what the chart renders, and the upgrade between them."""

from pathlib import Path
from typing import Any

import pytest

from support.api_server import ApiServer
from support.chart import engine
from support.chart.cluster import Cluster
from support.chart.engine import CHART, Tree, of_kind, only, workload

SHARED: Tree = {
    "replicaCount": 3,
    "config": {"bus": {"kind": "jetstream", "settings": {"replicas": 3}}},
}


@pytest.fixture
def cluster(programs: Path, api_server: ApiServer) -> Cluster:
    return Cluster(programs, api_server, api_server.namespace("chart-replicas"))


@pytest.mark.parametrize("name", engine.value_sets())
def test_workload_never_runs_two_pods_on_an_embedded_bus(name: str) -> None:
    manifests = engine.rendered(name)
    server = workload(manifests)
    if "bus" in engine.configuration(manifests):
        return
    assert server["spec"]["replicas"] == 1
    (data,) = [it for it in server["spec"]["template"]["spec"]["volumes"] if it["name"] == "data"]
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
    assert "AlmenaraSnapshotUnusable" in {rule["alert"] for rule in rules}


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
