"""Events that Ray pushes: of every type, and whatever else a sender makes of them."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara.bus.codec import normalize
from almenara.hookspecs import Push, PushRefusedError
from almenara.signals import Severity, parse_time
from almenara_ray.event_export import IDENTITIES, read_event, read_push

NODE = base64.b64encode(b"\x00\x01\x02").decode()


def make_event(kind: str = "NODE_LIFECYCLE_EVENT", **more: Any) -> dict[str, Any]:
    return {"eventId": NODE, "eventType": kind, "timestamp": "2026-01-01T00:00:00.5Z",
            "sessionName": "session_1", "severity": "INFO", **more}  # fmt: skip


def test_node_that_died_is_an_error_with_its_reason() -> None:
    transitions = [
        {"state": "ALIVE", "timestamp": "2026-01-01T00:00:00Z"},
        {"state": "DEAD", "timestamp": "2026-01-01T00:00:01Z",
         "deathInfo": {"reason": "UNEXPECTED_TERMINATION", "reasonMessage": "health check"}},
    ]  # fmt: skip
    body = {"nodeId": NODE, "stateTransitions": transitions}
    event = read_event(make_event(nodeLifecycleEvent=body), 5)
    assert (event.id, event.subject, event.type) == (
        "000102",
        "000102",
        "ray.export.node_lifecycle",
    )
    assert (event.severity, event.source) == (Severity.ERROR, "ray")
    assert event.time == parse_time("2026-01-01T00:00:01Z")
    assert event.data["session"] == "session_1"
    assert event.data["node"]["state_transitions"][1]["death_info"]["reason_message"] == (
        "health check"
    )


def test_expected_end_of_a_worker_is_no_error() -> None:
    transition = {"state": "DEAD", "timestamp": "2026-01-01T00:00:01Z",
                  "deathInfo": {"exitType": "INTENDED_SYSTEM_EXIT"}}  # fmt: skip
    body = {"workerId": NODE, "jobId": NODE, "stateTransitions": [transition]}
    event = read_event(make_event("WORKER_LIFECYCLE_EVENT", workerLifecycleEvent=body), 5)
    assert (event.severity, event.correlation) == (Severity.INFO, "000102")


def test_names_as_in_the_schema_are_read_as_well() -> None:
    camel = make_event(
        "TASK_LIFECYCLE_EVENT",
        taskLifecycleEvent={"taskId": NODE, "stateTransitions": [{"state": "FAILED"}]},
    )
    snake = {
        "event_id": NODE, "event_type": "TASK_LIFECYCLE_EVENT", "severity": "INFO",
        "timestamp": "2026-01-01T00:00:00.5Z", "session_name": "session_1",
        "task_lifecycle_event": {"task_id": NODE, "state_transitions": [{"state": "FAILED"}]},
    }  # fmt: skip
    assert read_event(camel, 5) == read_event(snake, 5)
    assert read_event(camel, 5).severity is Severity.ERROR


def test_secrets_of_a_job_are_not_stored() -> None:
    body = {
        "jobId": NODE, "entrypoint": "python train.py --api-key=w0rd",
        "config": {"serializedRuntimeEnv": '{"env_vars": {"A": "w0rd"}}',
                   "metadata": {"api_key": "w0rd", "team": "search"}},
    }  # fmt: skip
    event = read_event(make_event("DRIVER_JOB_DEFINITION_EVENT", driverJobDefinitionEvent=body), 5)
    assert "w0rd" not in json.dumps(event.data)
    assert event.data["driver_job"]["config"]["metadata"]["team"] == "search"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([{}], r"\[0\]: eventId"),
        ([make_event(), {"eventId": NODE, "eventType": 7}], r"\[1\]: eventType"),
    ],
)
def test_events_without_identity_are_refused(body: Any, reason: str) -> None:
    with pytest.raises(PushRefusedError, match=reason):
        read_push(Push(body=json.dumps(body).encode(), headers={}, received=1))


fields = st.sampled_from(
    ["eventId", "eventType", "timestamp", "severity", "sessionName", "nodeId", "taskId", "state",
     "stateTransitions", "deathInfo", "reason", "config", "metadata", "taskLifecycleEvent",
     "nodeLifecycleEvent", "submissionId", "message"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from([NODE, "DEAD", "TASK_LIFECYCLE_EVENT", "NODE_LIFECYCLE_EVENT"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=5),
    max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(fields, values, max_size=8), st.sampled_from([*IDENTITIES, "odd"]))
def test_any_event_is_stored_or_refused(raw: dict[str, Any], kind: str) -> None:
    for more in ({}, {"eventId": NODE, "eventType": f"{kind.upper()}_LIFECYCLE_EVENT"}):
        try:
            event = read_event({**raw, **more}, 1)
        except ValueError:
            assert not more
            continue
        normalize(event, "intake/ray")
