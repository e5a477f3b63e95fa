"""The Kubernetes plugin keeps the rules of a good plugin, before a real kube-apiserver."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from almenara.testing import conformance
from support.api_server import ApiServer

SETTINGS: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def cluster(api_server: ApiServer) -> None:
    """A cluster in which a container was killed a moment ago."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    killed = {
        "name": "main", "image": "example.org/main:1.2", "imageID": "", "ready": True,
        "restartCount": 1,
        "state": {"running": {"startedAt": moment}},
        "lastState": {
            "terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": moment}
        },
    }  # fmt: skip
    namespace = api_server.namespace("conformance")
    api_server.pod(namespace, "killed", status={"phase": "Running", "containerStatuses": [killed]})
    SETTINGS["clusters"] = [
        {"kubeconfig": str(api_server.admin_kubeconfig), "namespaces": [namespace]}
    ]


def settings() -> contextlib.AbstractContextManager[Mapping[str, Any]]:
    return contextlib.nullcontext(SETTINGS)


test_kubernetes_keeps_the_rules = conformance("kubernetes", settings)
