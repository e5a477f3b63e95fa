"""Answers of a Ray dashboard are parsed; anything else is rejected with a reason or left out."""

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara_ray.errors import MalformedAnswerError
from almenara_ray.mapping import (
    MESSAGE_LIMIT,
    JobListParser,
    parse_applications,
    parse_jobs,
    parse_node_metrics,
    parse_nodes,
    parse_state_counts,
    parse_status,
    parse_version,
)
from support.paths import FIXTURES

ANSWERS = FIXTURES / "ray-2.60"
PARSERS: dict[str, Callable[[bytes], Any]] = {
    "jobs": parse_jobs,
    "nodes": parse_nodes,
    "nodes_summary": parse_node_metrics,
    "status": parse_status,
    "actors": parse_state_counts,
    "tasks": parse_state_counts,
    "serve": parse_applications,
    "version": parse_version,
}


def read_fixture(name: str) -> bytes:
    return (ANSWERS / f"{name}.json").read_bytes()


def test_parse_jobs_of_a_real_dashboard_sorts_and_redacts() -> None:
    jobs, malformed = parse_jobs(read_fixture("jobs"))
    assert malformed == 0
    assert [(job.id, job.status) for job in jobs] == [
        ("ok-1", "SUCCEEDED"), ("bad-1", "FAILED"), ("long-1", "RUNNING"), ("pend-1", "FAILED"),
        ("pend-2", "RUNNING"), ("03000000", "SUCCEEDED"),
    ]  # fmt: skip
    works, fails = jobs[0], jobs[1]
    assert works.runtime_env == {"env_vars": {"API_KEY": "***"}}
    assert works.metadata == {"team": "search"}
    assert works.seconds == pytest.approx(2.477)
    assert (fails.exit_code, fails.error_type) == (1, "JOB_ENTRYPOINT_COMMAND_ERROR")
    assert jobs[-1].driver


def test_parse_everything_else_of_a_real_dashboard() -> None:
    (node,) = parse_nodes(read_fixture("nodes"))
    assert (node.head, node.alive, node.total["CPU"]) == (True, True, 2.0)
    assert not any(name.startswith("node:") for name in node.total)
    metrics = parse_node_metrics(read_fixture("nodes_summary"))[node.id]
    assert metrics.name == "ray-head-0"
    assert 0 < (metrics.cpu or 0) < 1
    assert metrics.object_total == 80_000_000
    status = parse_status(read_fixture("status"))
    assert status.usage["object_store_memory"] == (110_924.0, 80_000_000.0)
    assert [(demand.resources, demand.count) for demand in status.demand] == [({"CPU": 64.0}, 1)]
    # Job supervisors and the Serve controller are Ray's own actors.
    assert parse_state_counts(read_fixture("actors")) == {"ALIVE": 2}
    assert parse_state_counts(read_fixture("tasks")) == {
        "PENDING_NODE_ASSIGNMENT": 1,
        "FINISHED": 2,
    }
    (application,) = parse_applications(read_fixture("serve"))
    assert (application.name, application.status) == ("hello", "RUNNING")
    assert application.deployments[0]["replicas"] == application.deployments[0]["target"] == 1
    assert parse_version(read_fixture("version")).ray == "2.60.0"


def test_job_list_parser_parses_only_new_entries_and_returns_all() -> None:
    entries = json.loads(read_fixture("jobs"))
    parser = JobListParser()
    before, _ = parser.parse(json.dumps(entries[:3]).encode())
    entries[1]["status"], entries[1]["end_time"] = "SUCCEEDED", 1_795_552_100_000
    after, malformed = parser.parse(json.dumps([*entries, {"no": "job"}]).encode())
    assert (len(after), malformed) == (6, 1)
    assert {job.id: job.status for job in after}["long-1"] == "SUCCEEDED"
    # An unchanged entry is not parsed again.
    unchanged = {job.id: job for job in before}["bad-1"]
    assert any(job is unchanged for job in after)
    assert after == parse_jobs(json.dumps(entries).encode())[0]


def test_parse_jobs_of_ray_2_1() -> None:
    old = json.dumps({"raysubmit_1": {"status": "SUCCEEDED", "entrypoint": "x", "start_time": 1000,
                                      "end_time": 3000}}).encode()  # fmt: skip
    (job,), malformed = parse_jobs(old)
    assert (job.id, job.seconds, malformed) == ("raysubmit_1", 2.0, 0)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"error": "unauthorized"}', b'{"kind": "Status", "items": []}', b'"ok"']
)
def test_parse_jobs_refuses_objects_that_list_no_job(body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        parse_jobs(body)


def test_parse_version_refuses_an_object_without_a_version() -> None:
    with pytest.raises(MalformedAnswerError):
        parse_version(b"{}")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner,
                                                                max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(sorted(PARSERS)), st.binary(max_size=200) | ANYTHING.map(
    lambda tree: json.dumps(tree).encode()))  # fmt: skip
def test_parsers_accept_any_input_or_explain_the_error(name: str, body: bytes) -> None:
    try:
        PARSERS[name](body)
    except MalformedAnswerError as error:
        assert str(error)


@st.composite
def corrupted_answers(draw: st.DrawFn) -> tuple[str, bytes]:
    """Real answers in which some values are replaced."""
    name = draw(st.sampled_from(sorted(PARSERS)))
    tree = json.loads(read_fixture(name))
    for _ in range(draw(st.integers(1, 4))):
        parent, key = None, None
        inner = tree
        while isinstance(inner, dict | list) and inner:
            if isinstance(inner, dict):
                member = draw(st.sampled_from(sorted(inner)))
            else:
                member = draw(st.integers(0, len(inner) - 1))
            parent, key = inner, member
            inner = inner[member]
            if draw(st.booleans()) and draw(st.booleans()):
                break
        if parent is not None:
            parent[key] = draw(ANYTHING)
    return name, json.dumps(tree).encode()


@given(corrupted_answers())
def test_parsers_accept_real_answers_with_wrong_values(
    answer: tuple[str, bytes],
) -> None:
    name, body = answer
    try:
        result = PARSERS[name](body)
    except MalformedAnswerError:
        return
    # The bus must be able to store the result: as JSON, with its texts in UTF-8.
    msgspec.json.decode(msgspec.json.encode(result))


def test_parse_jobs_rejects_deep_nesting_and_cuts_long_values() -> None:
    with pytest.raises(MalformedAnswerError):
        parse_jobs(b"[" * 100_000)
    entry = {"submission_id": "a", "status": "FAILED", "message": "x" * 100_000 + "end",
             "runtime_env": {"pip": ["p" * 90_000]}, "entrypoint": "e" * 90_000}  # fmt: skip
    (job,), _ = parse_jobs(json.dumps([entry]).encode())
    assert job.message.endswith("end")
    assert max(len(job.message), len(job.entrypoint), len(str(job.runtime_env))) < 8_100


def test_parse_job_redacts_a_secret_whose_name_is_cut_off() -> None:
    message = "HF_TOKEN=hf_w0rd " + "y" * (MESSAGE_LIMIT - 5)
    entry = {"submission_id": "a", "status": "FAILED", "message": message}
    (job,), _ = parse_jobs(json.dumps([entry]).encode())
    assert len(job.message) <= MESSAGE_LIMIT
    assert "w0rd" not in job.message


@pytest.mark.parametrize("value", ["\ud800", math.nan, math.inf])
def test_parse_jobs_keeps_other_entries_beside_a_malformed_one(value: object) -> None:
    entries = [
        {"submission_id": "good", "status": "RUNNING", "start_time": 1_790_000_000_000},
        {"submission_id": "odd", "status": "RUNNING", "start_time": 1_790_000_000_001,
         "metadata": {"x": value}},
    ]  # fmt: skip
    jobs, malformed = parse_jobs(json.dumps(entries).encode())
    assert [job.id for job in jobs] == ["good", "odd"]
    assert malformed == 0
    msgspec.json.encode(jobs)
    for bad in (b'{"submission_id": 3, "status": []}', b"7"):
        body = b"[" + json.dumps(entries[0]).encode() + b"," + bad + b"]"
        jobs, malformed = parse_jobs(body)
        assert ([job.id for job in jobs], malformed) == (["good"], 1)


def test_parse_nodes_finds_alive_nodes_after_many_dead_ones() -> None:
    rows = [{"node_id": f"{number:04x}", "state": "DEAD"} for number in range(1_500)]
    rows.append({"node_id": "ffff", "state": "ALIVE"})
    body = {"result": True, "data": {"result": {"result": rows}}}
    nodes = parse_nodes(json.dumps(body).encode())
    assert [node.id for node in nodes if node.alive] == ["ffff"]


@pytest.mark.parametrize(
    "status",
    [
        None, {}, {"autoscalerReport": {}}, {"loadMetricsReport": {}},
        # An autoscaler that has not reported yet.
        {"loadMetricsReport": {"usage": {}, "resourceDemand": [], "pgDemand": []}},
    ],
)  # fmt: skip
def test_parse_status_without_load_is_unknown(status: object) -> None:
    body = {"result": True, "data": {"clusterStatus": status}}
    assert parse_status(json.dumps(body).encode()) is None
