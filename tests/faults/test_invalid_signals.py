"""A source that publishes invalid signals affects no other source and no later start."""

import json
from pathlib import Path

import pytest

from support.fleet import Fleet

INVALID = """
import asyncio, decimal, json
import almenara
from almenara.bus.validation import EVENT_FIELDS, RESOURCE_FIELDS, SAMPLE_FIELDS
from almenara.signals import Event, Resource, Sample, Severity, now

WRONG = [None, True, -1, 2**70, 1.5, float("nan"), "text", "\\ud800", b"bytes", [], ["a"], (),
         {"a": None}, {1: "a"}, set(), object(), int, decimal.Decimal(1), 13, lambda: 1]
BATCHES = [[None], "abc", (1, 2), None, 5, [[]], [object()], [Event]]
KINDS = [
    (Event, {"id": "x", "source": "bad", "type": "t", "time": 1, "data": {}},
     [*EVENT_FIELDS, "data"]),
    (Resource, {"kind": "k", "name": "n"}, [*RESOURCE_FIELDS]),
    (Sample, {"kind": "k", "name": "n", "metric": "m", "value": 1.0}, [*SAMPLE_FIELDS]),
]

class Bad:
    name = "bad"

    async def run(self, publish):
        refused = accepted = 0
        unexpected = []
        cases = [("batch", batch) for batch in BATCHES]
        for kind, valid, fields in KINDS:
            for field in fields:
                for wrong in WRONG:
                    cases.append((f"{kind.__name__}.{field}", [kind(**{**valid, field: wrong})]))
        for name, batch in cases:
            try:
                await publish(batch)
                accepted += 1
            except ValueError as error:
                refused += 1
                field = name.partition(".")[2]
                if field and field not in str(error):
                    unexpected.append(f"{name}: {error}")
            except Exception as error:
                unexpected.append(f"{name}: {type(error).__name__}: {error}")
        await publish([Event(
            id=f"{now()}", source="bad", type="bad.summary", time=now(),
            data={"cases": len(cases), "refused": refused, "accepted": accepted,
                  "unexpected": unexpected[:5]},
        )])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources():
    return [Bad()]
"""


@pytest.mark.parametrize("isolation", ["task", "thread", "process"])
def test_invalid_signals_are_refused_to_their_publisher(tmp_path: Path, isolation: str) -> None:
    fleet = Fleet(
        tmp_path,
        INVALID,
        supervisor__sources=f"{{bad: {{isolation: {isolation}}}}}",
        supervisor__rate_limit="100000",
    )
    fleet.almenara.start()
    try:
        fleet.wait_for_healthy_sources()
        summaries = fleet.wait_for_events("bad.summary")
        fleet.assert_healthy()
        for page in ("/events", "/sources", "/", "/api/resources", "/readyz"):
            assert fleet.almenara.text(page)
    finally:
        assert fleet.almenara.stop() == 0
    summary = summaries[0]["data"]
    assert summary["unexpected"] == [], summary
    assert summary["refused"] + summary["accepted"] == summary["cases"]
    assert summary["refused"] > summary["cases"] / 2
    print(f"{isolation}: {json.dumps(summary)}")
    # What was accepted can be read again, also without the plugin.
    (tmp_path / "plugins" / "bad.py").unlink()
    fleet.almenara.start()
    try:
        fleet.wait_for_healthy_sources()
        assert fleet.almenara.text("/api/resources")
    finally:
        assert fleet.almenara.stop() == 0
