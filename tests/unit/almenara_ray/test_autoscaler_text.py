"""The text status of an autoscaler v2 becomes usage and demand, or unknown."""

import pytest
from hypothesis import given, strategies as st

from almenara_ray.autoscaler_text import parse_autoscaler_text
from almenara_ray.models import Demand

STATUS = """\
======== Autoscaler status: 2026-11-28 08:00:00.000000 ========
Node status
---------------------------------------------------------------
Active:
 1 headgroup
Idle:
 (no idle nodes)
Pending:
 gpu-workers, 2 launching
 instance-7: cpu-workers, starting ray
Recent failures:
 gpu-workers: LaunchFailed (latest_attempt: 08:00:00)

Resources
---------------------------------------------------------------
Total Usage:
 1.0/2.0 CPU
 0B/1.50GiB memory
 108.32KiB/76.29MiB object_store_memory

From request_resources:
 {'CPU': 4}: 2 from request_resources()
Pending Demands:
 {'CPU': 64.0}: 3+ pending tasks/actors
 {'CPU': 1.0, 'GPU': 1.0}: 1+ pending tasks/actors (1+ using placement groups)
 {'GPU': 2.0} * 2, {'CPU': 1.0} * 1 (STRICT_SPREAD): 1+ pending placement groups
"""


def test_parse_autoscaler_text_has_usage_demand_and_nodes() -> None:
    status = parse_autoscaler_text(STATUS)
    assert status is not None
    assert status.usage == {
        "CPU": (1.0, 2.0),
        "memory": (0.0, 1.5 * 2**30),
        "object_store_memory": (pytest.approx(108.32 * 2**10), pytest.approx(76.29 * 2**20)),
    }
    assert status.demand == [
        Demand(resources={"CPU": 64.0}, count=3),
        Demand(resources={"CPU": 1.0, "GPU": 1.0}, count=1),
        Demand(resources={"GPU": 4.0, "CPU": 1.0}, count=1, group="STRICT_SPREAD"),
    ]
    assert (status.starting, status.failed, status.waiting) == (3, 1, 5)
    assert "LaunchFailed" in status.error


@pytest.mark.parametrize("title", ["Pending Demands", "Total Demands", "Demands"])
def test_parse_autoscaler_text_has_demand_of_every_version(title: str) -> None:
    status = parse_autoscaler_text(STATUS.replace("Pending Demands", title))
    assert status is not None
    assert status.waiting == 5


def test_parse_autoscaler_text_with_other_titles_has_no_demand() -> None:
    text = STATUS.replace("Pending Demands", "Backlog").replace("Pending:", "Coming:")
    status = parse_autoscaler_text(text.replace("Recent failures", "Problems"))
    assert status is not None
    assert (status.demand, status.waiting) == (None, None)
    assert (status.starting, status.failed) == (None, None)


@pytest.mark.parametrize(
    "text",
    ["", "No cluster status. It may take a few seconds.", "Total Usage:\n\n", "<html></html>"],
)
def test_parse_autoscaler_text_without_usage_is_unknown(text: str) -> None:
    assert parse_autoscaler_text(text) is None


@given(st.text(max_size=200) | st.text(max_size=60).map(lambda text: f"{STATUS}\n {text}"))
def test_parse_autoscaler_text_accepts_any_text(text: str) -> None:
    parse_autoscaler_text(text)


@pytest.mark.parametrize(
    "line",
    [
        f"{{'CPU': 1.0}} * {'9' * 400} (PACK): 1+ pending placement groups",
        f"{{'CPU': 1.0}} * 2 (PACK): {'9' * 400}+ pending placement groups",
        "{'CPU': 1e308} * 99 (PACK): 1+ pending placement groups",
        f"{{'CPU': 1.0}}: {'9' * 400}+ pending tasks/actors",
    ],
)
def test_parse_autoscaler_text_skips_numbers_beyond_any_cluster(line: str) -> None:
    usage = f" 1.0/4.0 CPU\n {'9' * 400}/4.0 GPU\n"
    launching = f"Pending:\n workers, {'9' * 400} launching\n"
    status = parse_autoscaler_text(f"{launching}Total Usage:\n{usage}Pending Demands:\n {line}\n")
    assert status is not None
    assert status.usage == {"CPU": (1.0, 4.0)}
    assert status.demand == []
    assert status.starting == 1
