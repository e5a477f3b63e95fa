"""The rules of the chart equal those that the plugin prints."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.application import Almenara
from support.chart import engine
from support.chart.engine import of_kind, render, value_sets
from support.chart.permissions import Permission, permissions

SETS = {
    name: path
    for name, path in value_sets().items()
    if name.startswith(("kubernetes", "kuberay", "vllm"))
}


@pytest.mark.parametrize("name", sorted(SETS.keys() - {"kubernetes-elsewhere"}))
def test_rules_equal_those_of_the_plugin(name: str, tmp_path: Path) -> None:
    manifests = render(engine.read(SETS[name]))
    config: dict[str, Any] = json.loads(json.dumps(engine.configuration(manifests)))
    # The command belongs to the plugin, which needs no permissions without clusters.
    config["plugins"]["disabled"] = []
    product = Almenara(tmp_path, config=config)
    done = product.command("kubernetes", "rbac", "--service-account", "watch/rel-almenara")
    assert done.returncode == 0, done.stderr
    expected = [each for each in yaml.safe_load_all(done.stdout) if each]
    kinds = ("Role", "ClusterRole")
    ours = [each for kind in kinds for each in of_kind(manifests, kind)]
    assert permissions(ours) == permissions(each for each in expected if each["kind"] in kinds)
    assert permissions(ours)
    for binding in (*of_kind(manifests, "RoleBinding"), *of_kind(manifests, "ClusterRoleBinding")):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "rel-almenara", "namespace": "watch"}
        ]
        (role,) = [
            each for each in ours
            if each["metadata"]["name"] == binding["roleRef"]["name"]
            and each["metadata"].get("namespace") == binding["metadata"].get("namespace")
        ]  # fmt: skip
        assert role["kind"] == binding["roleRef"]["kind"]


@pytest.mark.parametrize("name", ["defaults", "kubernetes-elsewhere"])
def test_rules_are_absent_without_own_cluster(name: str) -> None:
    manifests = render(engine.read(value_sets()[name]))
    for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        assert of_kind(manifests, kind) == []
    volumes = engine.workload(manifests)["spec"]["template"]["spec"]["volumes"]
    assert not any(each["name"] == "token" for each in volumes)


def kuberay(namespace: str) -> set[Permission]:
    plurals = ("rayclusters", "raycronjobs", "rayjobs", "rayservices")
    return {(namespace, "ray.io", each, verb) for each in plurals for verb in ("list", "watch")}


def test_rules_for_kuberay_are_read_only() -> None:
    (role,) = of_kind(render(engine.read(SETS["kuberay"])), "ClusterRole")
    assert permissions([role]) == kuberay("")
    beside = of_kind(render(engine.read(SETS["kuberay-namespaces"])), "Role")
    pods = {
        (namespace, group, "pods", verb)
        for namespace in ("shop", "ml")
        for group, verb in (("", "list"), ("", "watch"), ("metrics.k8s.io", "list"))
    }
    assert permissions(beside) == pods | kuberay("ml") | kuberay("research")
    # Of a namespace that both watch there is one Role.
    assert sorted(each["metadata"]["namespace"] for each in beside) == ["ml", "research", "shop"]


def test_rules_for_tokens_of_rayclusters_allow_reading_secrets_in_their_namespaces() -> None:
    clusters = [{"namespaces": ["ml"], "cluster_tokens": True}, {"name": "b", "namespaces": ["x"]}]
    values = {
        "plugins": {"enabled": ["ray"]}, "config": {"plugins": {"ray": {"kuberay": clusters}}},
    }  # fmt: skip
    roles = of_kind(render(values), "Role")
    secrets = {("ml", "", "secrets", "get")}
    assert permissions(roles) == kuberay("ml") | kuberay("x") | secrets


@pytest.mark.parametrize(("name", "port"), [("kuberay", 8265), ("kuberay-namespaces", 9443)])
def test_network_policy_allows_kuberay_ports(name: str, port: int) -> None:
    (policy,) = of_kind(render(engine.read(SETS[name])), "NetworkPolicy")
    ports = {each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]}
    assert {port, 443, 6443} <= ports


def test_vllm_discovery_may_list_and_connect() -> None:
    manifests = render(engine.read(SETS["vllm-discovery"]))
    assert permissions(of_kind(manifests, "Role")) == {("inference", "", "pods", "list")}
    everywhere = permissions(of_kind(manifests, "ClusterRole"))
    assert everywhere == {("", "discovery.k8s.io", "endpointslices", "list")}
    (policy,) = of_kind(manifests, "NetworkPolicy")
    ports = {each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]}
    assert {8000, 9000, 8265, 8080, 443, 6443} <= ports


def test_rules_include_logs_and_yaml_only_when_enabled() -> None:
    with_logs = render(engine.read(SETS["kubernetes-namespaces"]))
    without = render(engine.read(SETS["kubernetes"]))
    assert ("shop", "", "pods/log", "get") in permissions(of_kind(with_logs, "Role"))
    assert ("shop", "apps", "deployments", "get") in permissions(of_kind(with_logs, "Role"))
    assert not any(each[2] == "pods/log" for each in permissions(of_kind(without, "ClusterRole")))


def test_token_is_short_lived_and_mounted_only_when_needed() -> None:
    manifests = render(engine.read(SETS["kubernetes"]))
    (token,) = [
        each for each in engine.workload(manifests)["spec"]["template"]["spec"]["volumes"]
        if each["name"] == "token"
    ]  # fmt: skip
    source = token["projected"]["sources"][0]["serviceAccountToken"]
    assert 600 <= source["expirationSeconds"] <= 3607
