"""The values that filters offer."""

from types import SimpleNamespace
from typing import Any

from almenara.bus import Record
from almenara.scope import FULL_SCOPE, Grant, Scope
from almenara.signals import Resource
from almenara.state.resources import Resources
from almenara.web.filter_form import SUGGESTED_VALUES, suggest_values

FLEET = [
    Resource(kind="kubernetes.node", name="worker-1", origin="kubernetes/a"),
    Resource(kind="kubernetes.node", name="worker-2", origin="kubernetes/a"),
    Resource(kind="kubernetes.node", name="worker-3", origin="kubernetes/a", deleted=True),
    *(
        Resource(kind="kubernetes.pod", namespace=space, name=f"p{number}", origin="kubernetes/a")
        for space in ("web", "data")
        for number in range(1000)
    ),
    Resource(kind="kubernetes.service", namespace="mesh", name="s", origin="kubernetes/a"),
    Resource(kind="ray.job", namespace="lab", name="j", origin="ray/lab"),
]


def make_view(resources: list[Resource], scope: Scope = FULL_SCOPE) -> Any:
    known = Resources()
    known.accept([Record(number, resource) for number, resource in enumerate(resources, 1)])
    return SimpleNamespace(resources=known.within(scope))


def test_suggest_values_offers_namespaces_and_names_of_the_plugin() -> None:
    values = suggest_values(make_view(FLEET), "kubernetes", ["namespace", "node", "status"])
    assert values == {"namespace": ["data", "mesh", "web"], "node": ["worker-1", "worker-2"]}


def test_suggest_values_stays_within_the_scope() -> None:
    scope = Scope(grants=(Grant(sources=("ray",)),), access_log=False)
    assert suggest_values(make_view(FLEET, scope), "kubernetes", ["namespace", "node"]) == {}
    assert suggest_values(make_view(FLEET, scope), "ray", ["namespace"]) == {"namespace": ["lab"]}
    scope = Scope(grants=(Grant(namespaces=("web",)),), access_log=False)
    values = suggest_values(make_view(FLEET, scope), "kubernetes", ["namespace"])
    assert values == {"namespace": ["web"]}


def test_suggest_values_is_bounded() -> None:
    many = [
        Resource(kind="k.node", namespace=f"n{number:04}", name=f"n{number:04}", origin="k")
        for number in range(2 * SUGGESTED_VALUES)
    ]
    values = suggest_values(make_view(many), "k", ["namespace", "node"])
    assert [len(listed) for listed in values.values()] == [SUGGESTED_VALUES] * 2
