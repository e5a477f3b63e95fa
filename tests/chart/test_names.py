"""Names, labels and images of the chart, whatever their values look like."""

import re
from collections.abc import Iterator

import pytest
import yaml

from support.chart import engine
from support.chart.engine import (
    CHART,
    containers,
    render,
    value_sets,
    workload,
)

SETS = value_sets()


def test_images_have_registry_and_pull_secrets_of_parent_chart() -> None:
    pod = workload(render(engine.read(SETS["private-registry"])))["spec"]["template"]["spec"]
    images = {container["name"]: container["image"] for container in containers(pod)}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert images == {
        "almenara": f"registry.example.org:5000/almenara/almenara:{chart['appVersion']}",
        "install": "registry.example.org:5000/python:3.13-slim",
    }
    assert [secret["name"] for secret in pod["imagePullSecrets"]] == ["shared", "mirror", "own"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("ghcr.io/a/python:3", "ghcr.io/a/python:3"),
        ("localhost/python:3", "localhost/python:3"),
        ("mirror:5000/python", "mirror:5000/python"),
        ("a/python:3", "r.example.org/a/python:3"),
        ("python:3", "r.example.org/python:3"),
    ],
)
def test_install_image_keeps_its_own_registry(image: str, expected: str) -> None:
    values = engine.read(SETS["private-registry"])
    values["global"]["imageRegistry"] = "r.example.org"
    values["plugins"]["install"]["image"] = image
    pod = workload(render(values))["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["image"] == expected


YAML_LOOKALIKES = ["2024", "1e3", "true", "null", "no", "0x1f", "1-1", "on"]
"""Names that Kubernetes accepts and that YAML reads as something else without quotes."""


@pytest.mark.parametrize("word", YAML_LOOKALIKES)
@pytest.mark.parametrize("name", SETS)
def test_names_and_labels_are_strings(name: str, word: str) -> None:
    values = {**engine.read(SETS[name]), "nameOverride": "", "fullnameOverride": ""}
    manifests = render(values, name=word, namespace=word)
    assert manifests
    for manifest in manifests:
        assert all(isinstance(text, str) for text in names_in(manifest)), manifest
        if manifest["kind"] == "Service":
            # A Service's name is a DNS-1035 label, which starts with a letter.
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])


NAME_KEYS = {
    "name", "namespace", "serviceName", "serviceAccountName", "secretName", "claimName", "host",
    "storageClassName", "ingressClassName", "priorityClassName", "runtimeClassName", "volumeName",
}  # fmt: skip
STRING_MAPS = {"labels", "annotations", "matchLabels", "nodeSelector", "data", "stringData"}


def names_in(node: object, key: str = "") -> Iterator[object]:
    """Yield the values of all names, labels and annotations of a manifest."""
    if key in STRING_MAPS and isinstance(node, dict):
        yield from node
        yield from node.values()
    elif isinstance(node, dict):
        for child_key, child in node.items():
            yield from names_in(child, child_key)
    elif isinstance(node, list):
        for child in node:
            yield from names_in(child, key if key == "matchNames" else "")
    elif key in NAME_KEYS or key == "matchNames":
        yield node


def test_chart_has_artifact_hub_metadata() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    annotations = chart["annotations"]
    (image,) = yaml.safe_load(annotations["artifacthub.io/images"])
    assert image["image"].endswith(f":{chart['appVersion']}")
    change, *_ = yaml.safe_load(annotations["artifacthub.io/changes"])
    assert {"kind", "description"} <= change.keys()
    assert (CHART / "README.md").is_file()
