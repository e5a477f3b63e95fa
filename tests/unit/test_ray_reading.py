"""What a Ray dashboard answers is read; whatever else comes is refused in words or left out."""

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara_ray import answers
from almenara_ray.answers import AnswerError
from almenara_ray.durations import Durations, alike
from almenara_ray.logs import LONGEST_LINE, bounded, clean, line
from almenara_ray.masking import masked, masked_tree
from support.paths import FIXTURES

ANSWERS = FIXTURES / "ray-2.60"
READERS: dict[str, Callable[[bytes], Any]] = {
    "jobs": answers.jobs,
    "nodes": answers.nodes,
    "nodes_summary": answers.measured,
    "status": answers.status,
    "actors": answers.states,
    "tasks": answers.states,
    "serve": answers.applications,
    "version": answers.version,
}


def captured(name: str) -> bytes:
    return (ANSWERS / f"{name}.json").read_bytes()


def test_jobs_of_a_real_dashboard_are_read_oldest_first_with_secrets_hidden() -> None:
    found, unread = answers.jobs(captured("jobs"))
    assert unread == 0
    assert [(it.id, it.status) for it in found] == [
        ("ok-1", "SUCCEEDED"), ("bad-1", "FAILED"), ("long-1", "RUNNING"), ("pend-1", "FAILED"),
        ("pend-2", "RUNNING"), ("03000000", "SUCCEEDED"),
    ]  # fmt: skip
    works, fails = found[0], found[1]
    assert works.runtime_env == {"env_vars": {"API_KEY": "***"}}
    assert works.metadata == {"team": "search"}
    assert works.seconds == pytest.approx(2.477)
    assert (fails.exit_code, fails.error_type) == (1, "JOB_ENTRYPOINT_COMMAND_ERROR")
    assert found[-1].driver


def test_the_shape_of_a_real_cluster_is_read() -> None:
    (node,) = answers.nodes(captured("nodes"))
    assert (node.head, node.alive, node.total["CPU"]) == (True, True, 2.0)
    assert not any(name.startswith("node:") for name in node.total)
    measured = answers.measured(captured("nodes_summary"))[node.id]
    assert measured.name == "ray-head-0"
    assert 0 < (measured.cpu or 0) < 1
    assert measured.object_total == 80_000_000
    status = answers.status(captured("status"))
    assert status.usage["object_store_memory"] == (110_924.0, 80_000_000.0)
    assert [(it.resources, it.count) for it in status.demand] == [({"CPU": 64.0}, 1)]
    # Supervisors of jobs and the controller of Serve are not what people mean by actors.
    assert answers.states(captured("actors")) == {"ALIVE": 2}
    assert answers.states(captured("tasks")) == {"PENDING_NODE_ASSIGNMENT": 1, "FINISHED": 2}
    (application,) = answers.applications(captured("serve"))
    assert (application.name, application.status) == ("hello", "RUNNING")
    assert application.deployments[0]["replicas"] == application.deployments[0]["target"] == 1
    assert answers.version(captured("version")).ray == "2.60.0"


def test_of_a_list_that_grows_the_new_entries_alone_are_read_and_all_are_told() -> None:
    entries = json.loads(captured("jobs"))
    reader = answers.JobList()
    before, _ = reader.read(json.dumps(entries[:3]).encode())
    entries[1]["status"], entries[1]["end_time"] = "SUCCEEDED", 1_795_552_100_000
    after, unread = reader.read(json.dumps([*entries, {"no": "job"}]).encode())
    assert (len(after), unread) == (6, 1)
    assert {it.id: it.status for it in after}["long-1"] == "SUCCEEDED"
    # What has not changed is the very same as before.
    kept = {it.id: it for it in before}["bad-1"]
    assert any(it is kept for it in after)
    assert after == answers.jobs(json.dumps(entries).encode())[0]


def test_jobs_of_a_ray_before_2_2_are_read() -> None:
    old = json.dumps({"raysubmit_1": {"status": "SUCCEEDED", "entrypoint": "x", "start_time": 1000,
                                      "end_time": 3000}}).encode()  # fmt: skip
    (job,), unread = answers.jobs(old)
    assert (job.id, job.seconds, unread) == ("raysubmit_1", 2.0, 0)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner,
                                                                max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200) | ANYTHING.map(
    lambda it: json.dumps(it).encode()))  # fmt: skip
def test_whatever_comes_is_read_or_refused_in_words(name: str, body: bytes) -> None:
    try:
        READERS[name](body)
    except AnswerError as error:
        assert str(error)


@st.composite
def disturbed(draw: st.DrawFn) -> tuple[str, bytes]:
    """A real answer in which some values are others."""
    name = draw(st.sampled_from(sorted(READERS)))
    tree = json.loads(captured(name))
    for _ in range(draw(st.integers(1, 4))):
        place, key = None, None
        inner = tree
        while isinstance(inner, dict | list) and inner:
            if isinstance(inner, dict):
                found = draw(st.sampled_from(sorted(inner)))
            else:
                found = draw(st.integers(0, len(inner) - 1))
            place, key = inner, found
            inner = inner[found]
            if draw(st.booleans()) and draw(st.booleans()):
                break
        if place is not None:
            place[key] = draw(ANYTHING)
    return name, json.dumps(tree).encode()


@given(disturbed())
def test_a_real_answer_with_other_values_in_it_is_read_or_refused(
    found: tuple[str, bytes],
) -> None:
    name, body = found
    try:
        result = READERS[name](body)
    except AnswerError:
        return
    # What was read can be kept: the bus writes it as JSON, and its texts as UTF-8.
    msgspec.json.decode(msgspec.json.encode(result))


def test_deeply_nested_and_long_answers_are_refused_or_cut() -> None:
    with pytest.raises(AnswerError):
        answers.jobs(b"[" * 100_000)
    entry = {"submission_id": "a", "status": "FAILED", "message": "x" * 100_000 + "end",
             "runtime_env": {"pip": ["p" * 90_000]}, "entrypoint": "e" * 90_000}  # fmt: skip
    (job,), _ = answers.jobs(json.dumps([entry]).encode())
    assert job.message.endswith("end")
    assert max(len(job.message), len(job.entrypoint), len(str(job.runtime_env))) < 8_100


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("python train.py --api-key=abc123 --epochs 3", "python train.py --api-key=*** --epochs 3"),
        ("HF_TOKEN=hf_abc python x.py", "HF_TOKEN=*** python x.py"),
        ("run --password 'two words' now", "run --password *** now"),
        ("pip install https://me:pw@host/simple", "pip install https://***@host/simple"),
        ("curl -H 'Authorization: Bearer abcdefghij'", "curl -H 'Authorization: Bearer ***'"),
        ("GET /x?X-Amz-Signature=abcdef&b=1", "GET /x?X-Amz-Signature=***&b=1"),
        ("train --tokenizer bert --max_tokens=9", "train --tokenizer bert --max_tokens=9"),
        ("python plain.py --epochs 3", "python plain.py --epochs 3"),
        (
            """x --config '{"api_key": "sk-abc", "n": 1}'""",
            """x --config '{"api_key": ***, "n": 1}'""",
        ),
        (
            r"""{"a": "{\"password\": \"w0rd\", \"n\": 1}"}""",
            r"""{"a": "{\"password\": ***, \"n\": 1}"}""",
        ),
        ("cfg={'password': 'hunter2', 'n': 1}", "cfg={'password': ***, 'n': 1}"),
        (r"""password="a\"b" n=1""", "password=*** n=1"),
        ("password:hunter2 n:1", "password:*** n:1"),
        ("run --token 'cut off in its mid", "run --token ***"),
        ('File "token_stream.py:45", line 3', 'File "token_stream.py:45", line 3'),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_every_variable_of_a_runtime_environment_is_hidden_but_for_its_name() -> None:
    tree = {"env_vars": {"A": "1"}, "pip": ["x"], "deep": {"secret_key": {"a": 1}}}
    assert masked_tree(tree) == {"env_vars": {"A": "***"}, "pip": ["x"],
                                 "deep": {"secret_key": "***"}}  # fmt: skip


PIECES = ("token.", "a.", "--token ", "token:", 'token="', 'token=\\"', "://a", "bearer ", "-_")


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_for_ever_to_mask(piece: str) -> None:
    # Steps that grew with the square of it would take minutes.
    masked(piece * 50_000)


def test_a_secret_is_hidden_although_its_name_is_cut_off() -> None:
    message = "HF_TOKEN=hf_w0rd " + "y" * (answers.MESSAGE - 5)
    entry = {"submission_id": "a", "status": "FAILED", "message": message}
    (job,), _ = answers.jobs(json.dumps([entry]).encode())
    assert len(job.message) <= answers.MESSAGE
    assert "w0rd" not in job.message


@pytest.mark.parametrize("value", ["\ud800", math.nan, math.inf])
def test_an_entry_that_is_no_json_hides_no_other(value: object) -> None:
    entries = [
        {"submission_id": "good", "status": "RUNNING", "start_time": 1_790_000_000_000},
        {"submission_id": "odd", "status": "RUNNING", "start_time": 1_790_000_000_001,
         "metadata": {"x": value}},
    ]  # fmt: skip
    found, unread = answers.jobs(json.dumps(entries).encode())
    assert [it.id for it in found] == ["good", "odd"]
    assert unread == 0
    msgspec.json.encode(found)
    for bad in (b'{"submission_id": 3, "status": []}', b"7"):
        body = b"[" + json.dumps(entries[0]).encode() + b"," + bad + b"]"
        found, unread = answers.jobs(body)
        assert ([it.id for it in found], unread) == (["good"], 1)


def test_however_many_nodes_have_died_those_that_live_are_read() -> None:
    rows = [{"node_id": f"{number:04x}", "state": "DEAD"} for number in range(1_500)]
    rows.append({"node_id": "ffff", "state": "ALIVE"})
    body = {"result": True, "data": {"result": {"result": rows}}}
    found = answers.nodes(json.dumps(body).encode())
    assert [it.id for it in found if it.alive] == ["ffff"]


def test_runs_that_differ_in_an_id_or_a_date_are_of_one_entrypoint() -> None:
    first = "python run.py --job 6f9619ff-8b86-d011-b42d-00c04fc964ff --day 2026-01-02"
    other = "python  run.py --job 00000000-8b86-d011-b42d-00c04fc964ff --day 2026-03-04"
    assert alike(first) == alike(other)
    assert alike("train --epochs 3") != alike("train --epochs 30")
    assert alike("evaluate --story US-101") == alike("evaluate --story US-102")
    known = Durations()
    assert known.usual(first) is None
    for seconds in (10.0, 30.0, 20.0):
        known.note(first, seconds)
    assert known.usual(other) == 20.0
    for seconds, epochs in ((10.0, 100), (12.0, 100), (30.0, 300), (32.0, 300)):
        known.note(f"train --epochs {epochs}", seconds)
    assert known.usual("train --epochs 100") == 11.0
    assert known.usual("train --epochs 200") == 21.0
    for number in range(700):
        known.note(f"other {number} x", 1.0)
    assert known.usual(first) is None
    assert len(known.runs) == 500


def test_a_log_is_shown_as_a_terminal_would_have_left_it() -> None:
    assert clean("\x1b[36mblue\x1b[0m\n 10%\r 50%\r100%\nlast\r\n") == "blue\n100%\nlast"
    assert line("2026 ERROR it broke").severity.name == "ERROR"
    assert line("ValueError: 7").severity.name == "ERROR"
    assert line("all is well").severity.name == "INFO"


def test_the_end_of_a_line_without_end_shows_no_secret_whose_name_is_cut_off() -> None:
    for written in ("HF_TOKEN=w0rd", "--token w0rd"):
        for cut in range(len(written) + 2):
            rest = "x" * LONGEST_LINE + written + " " + "y z " * (LONGEST_LINE // 4)
            assert "w0rd" not in line(bounded(rest + "y" * cut)).text
    assert bounded("x" * 9 * LONGEST_LINE) == ""
    assert bounded("short") == "short"


@given(st.text(max_size=300))
def test_any_log_can_be_cleaned_and_masked(text: str) -> None:
    for it in clean(text).split("\n"):
        line(it)
