"""A source that publishes signals with every wrong value, and what its neighbours notice of it."""

import statistics
from pathlib import Path
from typing import Any

import msgspec

from support.fleet import Fleet

PLUGIN = """
import asyncio, decimal, time
import almenara
from almenara.bus.validation import EVENT_FIELDS, RESOURCE_FIELDS, SAMPLE_FIELDS
from almenara.signals import Event, Resource, Sample, now

WRONG = [None, True, -1, 2**70, 1.5, float("nan"), "text", "\\ud800", b"bytes", [], ["a"], (),
         {"a": None}, {1: "a"}, set(), object(), int, decimal.Decimal(1), 13, lambda: 1]
BATCHES = [[None], "abc", (1, 2), None, 5, [[]], [object()], [Event]]
KINDS = [
    (Event, {"id": "x", "source": "bad", "type": "t", "time": 1, "data": {}},
     [*EVENT_FIELDS, "data"]),
    (Resource, {"kind": "k", "name": "n"}, [*RESOURCE_FIELDS]),
    (Sample, {"kind": "k", "name": "n", "metric": "m", "value": 1.0}, [*SAMPLE_FIELDS]),
]
CASES = [("batch", batch) for batch in BATCHES] + [
    (f"{kind.__name__}.{field}", [kind(**{**valid, field: wrong})])
    for kind, valid, fields in KINDS for field in fields for wrong in WRONG
]

class Bad:
    name = "bad"

    async def run(self, publish):
        self.publish, self.unexpected = publish, []
        counts = {"refused": 0, "accepted": 0}
        for turn in range(TURNS):
            await self.note("bad.rest")
            await asyncio.sleep(SECONDS)
            await self.note("bad.turn")
            end, rounds = time.monotonic() + SECONDS, 0
            while not rounds or time.monotonic() < end:
                for name, batch in CASES:
                    result = await self.try_batch(name, batch)
                    if not turn and not rounds:
                        counts[result] += 1
                rounds += 1
        await self.note("bad.rest")
        await self.note(
            "bad.summary", cases=len(CASES), unexpected=self.unexpected[:5], **counts
        )
        await asyncio.Event().wait()

    async def note(self, kind, **data):
        await self.publish([Event(
            id=f"{kind}-{now()}", source="bad", type=kind, time=now(), data=data
        )])

    async def try_batch(self, name, batch):
        try:
            await self.publish(batch)
            return "accepted"
        except ValueError as error:
            field = name.partition(".")[2]
            if field and field not in str(error):
                self.unexpected.append(f"{name}: {error}")
        except Exception as error:
            self.unexpected.append(f"{name}: {type(error).__name__}: {error}")
        return "refused"

@almenara.hookimpl
def almenara_sources():
    return [Bad()]
"""


class Neighbours(msgspec.Struct, kw_only=True):
    """What the healthy sources beside the bad one have measured."""

    summary: dict[str, Any]
    """The cases of the bad source, and how many of them were refused and accepted."""
    with_bad: list[float]
    """Seconds from publishing to stored of each of their events while the bad one published."""
    without: list[float]
    """The same while it rested."""
    missing: int
    """Events of theirs that are not in history."""

    @property
    def ratio(self) -> float:
        """How much longer the median took while the bad source published."""
        return statistics.median(self.with_bad) / statistics.median(self.without)


def make_fleet(folder: Path, isolation: str, *, turns: int, seconds: float) -> Fleet:
    """A fleet whose bad source rests and publishes in turns of some seconds each."""
    return Fleet(
        folder,
        f"TURNS, SECONDS = {turns}, {seconds}\n{PLUGIN}",
        supervisor__sources=f"{{bad: {{isolation: {isolation}}}}}",
        supervisor__rate_limit="100000",
    )


def measure_neighbours(fleet: Fleet) -> Neighbours:
    """Wait until the bad source of a running fleet has finished; return what the others noticed."""
    fleet.wait_for_healthy_sources()
    (summary,) = fleet.wait_for_events("bad.summary")
    took: dict[str, list[float]] = {"bad.turn": [], "bad.rest": []}
    numbers: dict[str, list[int]] = {}
    turn = ""
    for event in fleet.almenara.events():
        if event["type"] in took:
            turn = event["type"]
        elif event["type"] == "healthy.tick":
            numbers.setdefault(event["source"], []).append(int(event["id"].rpartition("-")[2]))
            # An event has the time that the one before it took.
            if turn and event["sequence"] < summary["sequence"]:
                took[turn].append(event["data"]["took"])
    return Neighbours(
        summary=summary["data"], with_bad=took["bad.turn"], without=took["bad.rest"],
        missing=sum(len({*range(max(each) + 1)} - {*each}) for each in numbers.values()),
    )  # fmt: skip
