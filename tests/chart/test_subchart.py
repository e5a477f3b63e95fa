"""The chart as a dependency of another chart, rendered by helm itself."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart.engine import CHART, Tree, of_kind, pods

PARENT = {
    "apiVersion": "v2",
    "name": "platform",
    "version": "1.0.0",
    "dependencies": [
        {"name": "almenara", "version": ">=0.1.0-0", "condition": "almenara.enabled"},
        {"name": "almenara", "version": ">=0.1.0-0", "alias": "second",
         "condition": "second.enabled", "tags": ["monitoring"]},
    ],
}  # fmt: skip


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A chart that depends on this one twice, the second time by another name."""
    chart = tmp_path / "platform"
    chart.mkdir()
    (chart / "Chart.yaml").write_text(yaml.safe_dump(PARENT))
    shutil.copytree(CHART, chart / "charts" / "almenara")
    return chart


@pytest.fixture
def helm(programs: Path, parent: Path) -> Any:
    """Returns what `helm template` prints for values of the parent, and whether it succeeds."""

    def template(values: Tree, name: str = "rel", namespace: str = "watch") -> tuple[bool, str]:
        process = subprocess.run(
            [programs / "helm", "template", name, parent, "-n", namespace, "--values", "-"],
            input=yaml.safe_dump(values), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return process.returncode == 0, process.stdout or process.stderr

    return template


def manifests(text: str) -> list[Tree]:
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def test_subchart_follows_condition(helm: Any) -> None:
    for enabled in ([], ["almenara"], ["second"], ["almenara", "second"]):
        values = {name: {"enabled": name in enabled} for name in ("almenara", "second")}
        succeeded, output = helm(values)
        assert succeeded, output
        names = {each["metadata"]["name"] for each in of_kind(manifests(output), "StatefulSet")}
        assert names == {f"rel-{name}" for name in enabled}


def test_subchart_uses_globals_of_parent(helm: Any) -> None:
    succeeded, output = helm({
        "global": {
            "imageRegistry": "registry.example.org", "imagePullSecrets": [{"name": "shared"}],
            "storageClass": "of-other-charts", "postgresql": {"auth": {"database": "x"}},
        },
        "almenara": {"enabled": True, "image": {"pullSecrets": ["own"]}},
        "second": {"enabled": False},
    })  # fmt: skip
    assert succeeded, output
    specs = [pod for _, pod in pods(manifests(output))]
    assert specs
    for pod in specs:
        assert pod["imagePullSecrets"] == [{"name": "shared"}, {"name": "own"}]
        for container in pod["containers"]:
            assert container["image"].startswith("registry.example.org/almenara/almenara:")


def test_subchart_refuses_unknown_values(helm: Any) -> None:
    succeeded, output = helm({"almenara": {"enabled": True, "ingres": {}}})
    assert not succeeded
    assert "additional properties 'ingres' not allowed" in output


@pytest.mark.parametrize("name", ["2024", "1e3", "true"])
def test_subchart_quotes_release_and_namespace(helm: Any, name: str) -> None:
    values = {"almenara": {"enabled": True}, "second": {"enabled": False}}
    succeeded, output = helm(values, name, name)
    assert succeeded, output
    for manifest in manifests(output):
        metadata = manifest["metadata"]
        assert metadata.get("namespace", name) == name
        assert metadata["labels"]["app.kubernetes.io/instance"] == name
