"""The status text of pods. That kubectl says the same is a test with a real API server."""

import msgspec
import pytest

from almenara.signals import parse_time
from almenara_kubernetes.kinds import PODS
from almenara_kubernetes.mapping.kubectl_columns import kubectl_columns
from almenara_kubernetes.models import Pod
from support.awkward_pods import AWKWARD, LATER, Awkward


def read(case: Awkward) -> Pod:
    found = PODS.decode(msgspec.json.encode(case.tree()))
    assert isinstance(found, Pod)
    return found


@pytest.mark.parametrize("case", AWKWARD, ids=lambda it: it.name)
def test_the_columns_of_a_pod_are_those_of_kubectl(case: Awkward) -> None:
    columns = kubectl_columns(read(case))

    assert columns.status == case.status
    assert f"{columns.ready}/{columns.total}" == case.ready
    assert columns.restarts == case.restarts


def test_the_last_restart_is_the_newest_of_all_containers_that_count() -> None:
    by_name = {it.name: it for it in AWKWARD}

    assert kubectl_columns(read(by_name["plain"])).restarted is None
    found = kubectl_columns(read(by_name["sidecar-restarts-count"])).restarted
    assert found == parse_time(LATER)
