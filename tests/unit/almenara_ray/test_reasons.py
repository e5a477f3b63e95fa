"""Why a job failed is found in its cleaned message, before the message is cut."""

import json
import time
from typing import Any

import pytest

from almenara_ray.job_tracker import find_reason
from almenara_ray.mapping import MESSAGE_LIMIT, parse_applications, parse_jobs
from almenara_ray.models import Job

HEAD = (
    "Job entrypoint command failed with exit code 1, last available logs"
    " (truncated to 20,000 chars):\n"
)
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 88, in <module>\n'


def fail(message: str, **fields: Any) -> Job:
    entry = {"submission_id": "a", "status": "FAILED", "driver_exit_code": 1, "message": message}
    (job,), _ = parse_jobs(json.dumps([{**entry, **fields}]).encode())
    return job


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (f"{TRACEBACK}ValueError: loss is nan\n", "ValueError: loss is nan"),
        # Ten long lines after the error, which push it out of what is stored.
        (
            f"{TRACEBACK}ValueError: loss is nan\n" + ("step " + "x" * 1_500 + "\n") * 10,
            "ValueError: loss is nan",
        ),
        # Coloured output of an actor after the error, and no error at all.
        (
            f"{TRACEBACK}ValueError: boom\n\x1b[36m(A pid=1)\x1b[0m step 22\n",
            "ValueError: boom",
        ),
        ("starting\nout of disk\n\x1b[36m(A pid=1, ip=10.0.0.7)\x1b[0m step 22\n", "out of disk"),
        # The cause of a task's error is its last line.
        (
            "ray.exceptions.RayTaskError(KeyError): ray::f() (pid=7)\n  File x\nKeyError: 'id'\n",
            "KeyError: 'id'",
        ),
        ("(f pid=9) OSError: disk full\nmore\n", "OSError: disk full"),
        (
            "  | ExceptionGroup: two (2 sub-exceptions)\n    | ValueError: first\n",
            "ValueError: first",
        ),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.\n", "torch.cuda.OutOfMemoryError: CUDA"),
        ("exit 3 follows\n", "exit 3 follows"),
    ],
)
def test_find_reason_prefers_the_last_error(log: str, reason: str) -> None:
    match = find_reason(fail(HEAD + log))
    assert match.startswith(reason)
    assert match.endswith("(exit code 1)")
    assert "\x1b" not in match


def test_find_reason_without_a_log_is_the_error_or_the_first_line() -> None:
    assert find_reason(fail("Job failed.\nmore")) == "Job failed."
    assert find_reason(fail("failed, last available logs (x):\nValueError: loss is nan\n")) == (
        "ValueError: loss is nan (exit code 1)"
    )
    assert find_reason(fail("Setup failed:\nPipError: no such package\n")) == (
        "PipError: no such package"
    )
    assert find_reason(fail("", error_type="JOB_SUPERVISOR_ERROR")) == "JOB_SUPERVISOR_ERROR"


def test_message_keeps_its_end_without_colours() -> None:
    job = fail(HEAD + "x" * 9_000 + "\n\x1b[31mthe end\x1b[0m")
    assert job.message.startswith("…")
    assert job.message.endswith("\nthe end")
    assert len(job.message) <= MESSAGE_LIMIT


def test_serve_application_keeps_the_cause_at_the_end_of_its_message() -> None:
    message = "Deploying app failed:\n" + "  File x, line 1\n" * 300 + "ImportError: no torch"
    body = {"applications": {"chat": {"status": "DEPLOY_FAILED", "message": message}}}
    (application,) = parse_applications(json.dumps(body).encode())
    assert application.message.endswith("ImportError: no torch")


@pytest.mark.parametrize("piece", ["Error", "a.", "(pid=", "(a pid=1", "|", "x"])
def test_find_reason_takes_linear_time(piece: str) -> None:
    started = time.process_time()
    fail(HEAD + piece * 30_000)
    assert time.process_time() - started < 2
