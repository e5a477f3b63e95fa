"""The Kubernetes plugin keeps the rules of a good plugin, before a real kube-apiserver."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from almenara.testing import conformance
from support.api_server import ApiServer
from support.faulty_link import FaultyLink

SERVER: list[tuple[ApiServer, str]] = []
"""The API server, and the namespace that the plugin watches."""
NUMBERS = itertools.count(1)


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
    # Where other tests run between those of this file, its fixtures are set up more than once.
    namespace = api_server.namespace(f"conformance-{next(NUMBERS)}")
    api_server.pod(namespace, "killed", status={"phase": "Running", "containerStatuses": [killed]})
    SERVER[:] = [(api_server, namespace)]


@contextlib.contextmanager
def settings() -> Iterator[dict[str, Any]]:
    """The settings of a cluster whose API server can be cut off."""
    ((server, namespace),) = SERVER
    port = urlsplit(server.url).port
    assert port is not None
    with tempfile.TemporaryDirectory() as folder, FaultyLink(port) as link:
        kubeconfig = server.kubeconfig(
            client=server.admin_certificate, server=f"https://127.0.0.1:{link.port}",
            path=Path(folder) / "kubeconfig",
        )  # fmt: skip
        yield {"clusters": [{"kubeconfig": str(kubeconfig), "namespaces": [namespace]}]}


test_kubernetes_keeps_the_rules = conformance(
    "kubernetes", settings, last_known={"kubernetes.*": "kubernetes.cluster"}
)
