"""A source that publishes invalid signals affects no other source and no later start."""

import json
from pathlib import Path

import pytest

from support.invalid_signals import make_fleet, measure_neighbours

WATCHDOG = 20.0
"""Seconds after which the supervisor interrupts a source that is blocked: `interrupt_after`."""


@pytest.mark.parametrize("isolation", ["task", "thread", "process"])
def test_invalid_signals_are_refused_to_their_publisher(tmp_path: Path, isolation: str) -> None:
    fleet = make_fleet(tmp_path, isolation, turns=2, seconds=1.0)
    fleet.almenara.start()
    try:
        measured = measure_neighbours(fleet)
        fleet.assert_healthy()
        for page in ("/events", "/sources", "/", "/api/resources", "/readyz"):
            assert fleet.almenara.text(page)
        neighbours = [fleet.source(name) for name in ("first", "second")]
    finally:
        assert fleet.almenara.stop() == 0
    summary = measured.summary
    assert summary["unexpected"] == [], summary
    assert summary["refused"] + summary["accepted"] == summary["cases"]
    assert summary["refused"] > summary["cases"] / 2
    assert measured.missing == 0
    assert max(*measured.with_bad, *measured.without) < WATCHDOG
    assert all((each["status"], each["restarts"]) == ("running", 0) for each in neighbours)
    print(
        f"{isolation}: {json.dumps(summary)}; {len(measured.with_bad)} events of neighbours, 0"
        f" missing, publish to stored {measured.ratio:.2f} times that without invalid signals"
    )
    # What was accepted can be read again, also without the plugin.
    (tmp_path / "plugins" / "bad.py").unlink()
    fleet.almenara.start()
    try:
        fleet.wait_for_healthy_sources()
        assert fleet.almenara.text("/api/resources")
    finally:
        assert fleet.almenara.stop() == 0
