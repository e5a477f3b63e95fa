"""The chart, rendered by Helm's own engine, and what its objects must look like."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

from support.paths import ROOT, TESTS

CHART = ROOT / "helm" / "almenara"
ALMENARA = Path(os.environ.get("ALMENARA_COMMAND", ROOT / ".venv" / "bin" / "almenara"))
"""The command of the product, which lives in an environment of its own."""

Tree = dict[str, Any]


@functools.cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


@functools.cache
def value_sets() -> dict[str, Path]:
    """Every set of values that the chart is held against: the tests' and those for people."""
    folders = (TESTS / "chart" / "values", ROOT / "helm" / "examples")
    return {each.stem: each for folder in folders for each in sorted(folder.glob("*.yaml"))}


def read(path: Path) -> Tree:
    return yaml.safe_load(path.read_text("utf-8")) or {}


def files(values: Tree, name: str = "rel", namespace: str = "watch") -> dict[str, str]:
    """The text of each template that renders to something."""
    rendered = chart().render(values, name=name, namespace=namespace)
    return {path: text for path, text in rendered.items() if text.strip()}


def render(values: Tree, name: str = "rel", namespace: str = "watch") -> list[Tree]:
    """The objects of a release, those of its hooks among them."""
    return [
        manifest
        for path, text in files(values, name, namespace).items()
        if path.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


@functools.cache
def rendered(name: str) -> list[Tree]:
    """The objects of a set of values, made once for all who only look at them."""
    return render(read(value_sets()[name]))


def of_kind(manifests: list[Tree], kind: str) -> list[Tree]:
    return [each for each in manifests if each["kind"] == kind]


def only(manifests: list[Tree], kind: str, suffix: str = "") -> Tree:
    """The one object of a kind, or of those the one whose name ends so."""
    (result,) = [
        each for each in of_kind(manifests, kind) if each["metadata"]["name"].endswith(suffix)
    ]
    return result


def workload(manifests: list[Tree]) -> Tree:
    """What runs Almenara; the chart may run NATS servers beside it."""
    (result,) = [
        each
        for each in manifests
        if each["kind"] in ("Deployment", "StatefulSet")
        and each["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    ]
    return result


def pods(manifests: list[Tree]) -> Iterator[tuple[str, Tree]]:
    """The specification of each pod, by whose it is."""
    for each in manifests:
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each["spec"]
        elif "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(pod: Mapping[str, Any]) -> list[Tree]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def configuration(manifests: list[Tree]) -> Tree:
    """What the application is given."""
    for each in of_kind(manifests, "ConfigMap"):
        if "almenara.yaml" in each["data"]:
            return yaml.safe_load(each["data"]["almenara.yaml"])
    raise AssertionError("no ConfigMap holds almenara.yaml")
