"""The columns of pods; an integration test compares them with kubectl."""

import msgspec
import pytest

from almenara.signals import Severity, parse_time
from almenara_kubernetes.kinds import PODS
from almenara_kubernetes.mapping.kubectl_columns import kubectl_columns
from almenara_kubernetes.mapping.pods import map_pod
from almenara_kubernetes.models import Pod
from support.awkward_pods import AWKWARD, LATER, Awkward


def read(case: Awkward) -> Pod:
    match = PODS.decode(msgspec.json.encode(case.tree()))
    assert isinstance(match, Pod)
    return match


@pytest.mark.parametrize("case", AWKWARD, ids=lambda each: each.name)
def test_kubectl_columns_match_the_printer(case: Awkward) -> None:
    columns = kubectl_columns(read(case))

    assert columns.status == case.status
    assert f"{columns.ready}/{columns.total}" == case.ready
    assert columns.restarts == case.restarts


def test_kubectl_columns_report_the_newest_restart() -> None:
    by_name = {each.name: each for each in AWKWARD}

    assert kubectl_columns(read(by_name["plain"])).restarted is None
    match = kubectl_columns(read(by_name["sidecar-restarts-count"])).restarted
    assert match == parse_time(LATER)


@pytest.mark.parametrize("case", AWKWARD, ids=lambda each: each.name)
def test_map_pod_never_calls_a_failed_pod_completed(case: Awkward) -> None:
    text, severity, _ = map_pod(read(case), {})

    if case.phase == "Failed":
        assert severity >= Severity.ERROR
    elif case.phase == "Succeeded":
        assert (text, severity) == (case.status, Severity.DEBUG)
