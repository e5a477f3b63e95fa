"""The NATS servers that the chart runs for those who have none."""

import re
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.api_server import ApiServer
from support.application import Almenara
from support.chart import engine
from support.chart.cluster import Cluster
from support.chart.engine import CHART, of_kind, only
from support.chart.release import HelmError
from support.servers import NatsServer, free_port

SECRET = "a-secret-that-all-replicas-share-0123"
PATIENCE = 90.0


def named(name: str, kind: str) -> engine.Tree:
    """The object of the servers of one kind."""
    manifests = engine.rendered("nats")
    (manifest,) = [each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name]
    return manifest


def test_servers_are_off_by_default() -> None:
    manifests = engine.rendered("replicas")
    components = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in manifests}
    assert "nats" not in components


def test_three_servers_are_spread_and_evicted_one_at_a_time() -> None:
    server = named("rel-almenara-nats", "StatefulSet")
    assert server["spec"]["replicas"] == 3
    spread = {
        each["topologyKey"]: each["whenUnsatisfiable"]
        for each in server["spec"]["template"]["spec"]["topologySpreadConstraints"]
    }
    assert spread["kubernetes.io/hostname"] == "DoNotSchedule"
    assert server["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"] == {
        "storage": "20Gi"
    }
    assert named("rel-almenara-nats", "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_pods_of_the_release_alone_connect_to_the_servers() -> None:
    policy = named("rel-almenara-nats", "NetworkPolicy")["spec"]
    clients, servers = policy["ingress"]
    assert [port["port"] for port in clients["ports"]] == ["nats"]
    selector = {"app.kubernetes.io/name": "almenara", "app.kubernetes.io/instance": "rel"}
    assert clients["from"] == [{"podSelector": {"matchLabels": selector}}]
    assert [port["port"] for port in servers["ports"]] == ["cluster"]
    server = only(engine.rendered("nats"), "Service", "rel-almenara")
    assert server["spec"]["selector"]["app.kubernetes.io/component"] == "server"


def test_stream_is_created_beside_the_servers_and_not_before() -> None:
    manifests = engine.rendered("nats")
    job = only(manifests, "Job")
    assert "annotations" not in job["metadata"]
    names = {each["metadata"]["name"] for each in manifests}
    volumes = {each["name"]: each for each in job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] in names
    assert volumes["secret-bus"]["secret"]["secretName"] in names
    assert job["spec"]["template"]["spec"]["serviceAccountName"] in names
    servers = engine.configuration(manifests)["plugins"]["nats"]["servers"]
    assert servers == ["nats://rel-almenara-nats:4222"]


def test_servers_form_a_cluster_with_a_bus(tmp_path: Path) -> None:
    """Three real servers with the configuration of the chart, on ports of this machine."""
    text = named("rel-almenara-nats", "ConfigMap")["data"]["nats.conf"]
    routes = {number: free_port() for number in range(3)}
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            server = NatsServer(tmp_path / f"nats-{number}")
            own = re.sub(
                r"rel-almenara-nats-(\d)\.rel-almenara-nats-headless:6222",
                lambda match: f"127.0.0.1:{routes[int(match[1])]}", text,
            )  # fmt: skip
            for before, after in (
                ("port: 4222", f'host: "127.0.0.1"\nport: {server.port}'),
                ("port: 6222", f'host: "127.0.0.1"\nport: {routes[number]}'),
                ("port: 8222", f"port: {free_port()}"),
                ("/data", str(server.folder / "data")),
                ("$POD_NAME", f"rel-almenara-nats-{number}"),
            ):
                assert before in own
                own = own.replace(before, after)
            server.config.write_text(own)
            servers.append(stack.enter_context(server))
        bus = {"kind": "jetstream", "secret": SECRET, "settings": {"replicas": 3}}
        almenara = Almenara(tmp_path / "almenara", servers[0].url, config={"bus": bus})
        end = time.monotonic() + PATIENCE
        # As the Job does, until the servers have a leader.
        while (done := almenara.command("streams", "apply")).returncode:
            assert time.monotonic() < end, done.stderr
        assert "ALMENARA_BUS" in done.stdout


def test_servers_are_accepted(programs: Path, api_server: ApiServer) -> None:
    cluster = Cluster(programs, api_server, api_server.namespace("nats-servers"))
    values = engine.read(engine.value_sets()["nats"])
    manifests = cluster.helm.install(CHART, "rel", values)
    assert all(cluster.exists(manifest) for manifest in manifests)
    server = cluster.get("apps/v1", "StatefulSet", "rel-almenara-nats")
    assert server["spec"]["replicas"] == 3
    # Each revision has a Job of its own: that of an earlier one cannot be changed.
    cluster.helm.upgrade(CHART, "rel", {**values, "replicaCount": 2})
    assert cluster.get("batch/v1", "Job", "rel-almenara-streams-2")
    cluster.helm.uninstall("rel")


def test_history_is_not_moved_to_servers_that_the_same_upgrade_creates(
    programs: Path, api_server: ApiServer
) -> None:
    cluster = Cluster(programs, api_server, api_server.namespace("nats-migration"))
    values = engine.read(engine.value_sets()["nats"])
    moving = {**values, "migration": {"fromClaim": "rel-almenara"}}
    single: engine.Tree = {"nats": {"enabled": True}}
    for change in (cluster.helm.install, cluster.helm.upgrade):
        with pytest.raises(HelmError) as refusal:
            change(CHART, "rel", moving)
        assert "Upgrade with nats.enabled and without config.bus" in str(refusal.value)
        if change == cluster.helm.install:
            cluster.helm.install(CHART, "rel", {})
    cluster.helm.upgrade(CHART, "rel", single)
    path = cluster.server.path("apps/v1", "StatefulSet", cluster.namespace, "rel-almenara")
    cluster.server.send("DELETE", path)
    # Accepted: it waits for the Job, which nothing runs here.
    with pytest.raises(HelmError) as refusal:
        cluster.helm.upgrade(CHART, "rel", moving, "--timeout", "1s")
    assert "pre-upgrade hooks failed" in str(refusal.value)
