"""Panels of the Kubernetes plugin, rendered from signals."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import almenara_kubernetes
from almenara.signals import Resource, Severity, Signal
from almenara.testing.rendering import render_panels
from almenara_kubernetes.panels import panels
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings


def pod(name: str = "it", **more: Any) -> Resource:
    """A pod that is ready; other arguments are of the resource or of its state."""
    state = {"ready": 1, "total": 1, "restarts": 0, "node": "n", "workload": "Deployment/web"}
    return Resource(
        kind="kubernetes.pod", namespace=more.pop("namespace", "shop"), name=name,
        status=more.pop("status", "Running"), severity=more.pop("severity", Severity.INFO),
        state={**state, **more},
    )  # fmt: skip


async def render(panel: str, signals: Sequence[Signal], **query: str) -> str:
    """The HTML of a panel, which is not broken."""
    (declared,) = (
        each
        for each in panels(KubernetesSettings(clusters=[ClusterSettings()]))
        if each.name == panel
    )
    templates = Path(almenara_kubernetes.__file__).parent / "templates"
    rendered = await render_panels("kubernetes", [declared], templates, signals, query)
    html = rendered[f"kubernetes.{panel}"]
    assert "broken-panel" not in html, html
    return html


def plain(text: str) -> str:
    """The text of HTML without its tags, and with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())
