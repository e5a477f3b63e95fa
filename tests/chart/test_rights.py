"""The rules of the chart are those of the plugin, which it prints itself."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.application import Almenara
from support.chart import engine
from support.chart.engine import Thing, of_kind, render, value_sets

SETS = {
    name: path for name, path in value_sets().items() if name.startswith(("kubernetes", "kuberay"))
}

Right = tuple[str, str, str, str]
"""Namespace (empty: the whole cluster), API group, resource and verb."""


def rights(roles: Iterable[Thing]) -> set[Right]:
    """Single rights of roles."""
    return {
        (role["metadata"].get("namespace", ""), group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("name", sorted(SETS.keys() - {"kubernetes-elsewhere"}))
def test_they_are_what_the_plugin_says_it_needs(name: str, tmp_path: Path) -> None:
    things = render(engine.read(SETS[name]))
    config: dict[str, Any] = json.loads(json.dumps(engine.configuration(things)))
    product = Almenara(tmp_path, config=config)
    done = product.command("kubernetes", "rbac", "--service-account", "watch/rel-almenara")
    assert done.returncode == 0, done.stderr
    wanted = [it for it in yaml.safe_load_all(done.stdout) if it]
    kinds = ("Role", "ClusterRole")
    ours = [it for kind in kinds for it in of_kind(things, kind)]
    assert rights(ours) == rights(it for it in wanted if it["kind"] in kinds)
    assert rights(ours)
    for binding in (*of_kind(things, "RoleBinding"), *of_kind(things, "ClusterRoleBinding")):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "rel-almenara", "namespace": "watch"}
        ]
        (role,) = [
            it for it in ours
            if it["metadata"]["name"] == binding["roleRef"]["name"]
            and it["metadata"].get("namespace") == binding["metadata"].get("namespace")
        ]  # fmt: skip
        assert role["kind"] == binding["roleRef"]["kind"]


@pytest.mark.parametrize("name", ["defaults", "kubernetes-elsewhere"])
def test_nothing_is_granted_where_nothing_of_this_cluster_is_read(name: str) -> None:
    things = render(engine.read(value_sets()[name]))
    for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        assert of_kind(things, kind) == []
    volumes = engine.workload(things)["spec"]["template"]["spec"]["volumes"]
    assert not any(it["name"] == "token" for it in volumes)


def kuberay(namespace: str) -> set[Right]:
    plurals = ("rayclusters", "rayjobs", "rayservices")
    return {(namespace, "ray.io", it, verb) for it in plurals for verb in ("list", "watch")}


def test_for_kuberay_its_resources_can_be_read_and_nothing_else() -> None:
    (role,) = of_kind(render(engine.read(SETS["kuberay"])), "ClusterRole")
    assert rights([role]) == kuberay("")
    beside = of_kind(render(engine.read(SETS["kuberay-namespaces"])), "Role")
    pods = {
        (namespace, group, "pods", verb)
        for namespace in ("shop", "ml")
        for group, verb in (("", "list"), ("", "watch"), ("metrics.k8s.io", "list"))
    }
    assert rights(beside) == pods | kuberay("ml") | kuberay("research")
    # Of a namespace that both watch there is one Role.
    assert sorted(it["metadata"]["namespace"] for it in beside) == ["ml", "research", "shop"]


@pytest.mark.parametrize(("name", "port"), [("kuberay", 8265), ("kuberay-namespaces", 9443)])
def test_the_dashboards_of_kuberay_and_the_api_server_can_be_reached(name: str, port: int) -> None:
    (policy,) = of_kind(render(engine.read(SETS[name])), "NetworkPolicy")
    ports = {it["port"] for rule in policy["spec"]["egress"] for it in rule["ports"]}
    assert {port, 443, 6443} <= ports


def test_logs_and_yaml_are_read_only_where_they_are_switched_on() -> None:
    with_logs = render(engine.read(SETS["kubernetes-namespaces"]))
    without = render(engine.read(SETS["kubernetes"]))
    assert ("shop", "", "pods/log", "get") in rights(of_kind(with_logs, "Role"))
    assert ("shop", "apps", "deployments", "get") in rights(of_kind(with_logs, "Role"))
    assert not any(it[2] == "pods/log" for it in rights(of_kind(without, "ClusterRole")))


def test_the_token_is_short_lived_and_only_there_where_it_is_needed() -> None:
    things = render(engine.read(SETS["kubernetes"]))
    (token,) = [
        it for it in engine.workload(things)["spec"]["template"]["spec"]["volumes"]
        if it["name"] == "token"
    ]  # fmt: skip
    source = token["projected"]["sources"][0]["serviceAccountToken"]
    assert 600 <= source["expirationSeconds"] <= 3607
