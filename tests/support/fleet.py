"""A running Almenara with two healthy sources beside a bad plugin."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.application import Almenara
from support.servers import wait_until

HEALTHY = """
import asyncio, itertools, time
import almenara
from almenara.signals import Event, now

RUN = time.time_ns()

class Healthy:
    def __init__(self, name):
        self.name = name

    async def run(self, publish):
        late, took, due = 0.0, 0.0, time.monotonic()
        for number in itertools.count():
            started_at = time.monotonic()
            await publish([Event(
                id=f"{RUN}-{number}", source=self.name, type="healthy.tick", time=now(),
                data={"late": late, "took": took},
            )])
            took = time.monotonic() - started_at
            due = max(due + 0.05, time.monotonic() - 1)
            await asyncio.sleep(max(due - time.monotonic(), 0))
            late = time.monotonic() - due + took

@almenara.hookimpl
def almenara_sources():
    return [Healthy("first"), Healthy("second")]
"""

LATENESS_LIMIT = 1.5
"""Seconds for the median. A blocked loop would delay all signals by far more; a busy machine with
two cores delays them by less."""


class Fleet:
    """A running Almenara with two healthy sources and a bad plugin."""

    def __init__(self, folder: Path, bad: str, **settings: str) -> None:
        plugins = folder / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "healthy.py").write_text(HEALTHY)
        (plugins / "bad.py").write_text(bad)
        self.marker = folder / "started"
        """A file that the bad source creates before it misbehaves."""
        self.almenara = Almenara(
            folder / "almenara",
            "nats://127.0.0.1:1",
            plugins_dir=str(plugins),
            plugins__disabled="[nats, http, prometheus]",
            **settings,
        )

    def source(self, name: str = "bad") -> dict[str, Any]:
        sources = {source["name"]: source for source in self.almenara.get("/api/sources")}
        return dict(sources.get(name, {}))

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Wait until the condition holds for the bad source."""
        wait_until(lambda: condition(self.source()), what, 90)

    def lateness(self) -> dict[str, float]:
        """The median lateness in seconds of each healthy source, over 20 ticks from now on."""
        after = self.almenara.get("/api/events?limit=1&type=healthy.tick")["events"][0]["sequence"]
        late: dict[str, list[float]] = {}

        def has_ticks() -> bool:
            late.update(first=[], second=[])
            for event in self.almenara.events(f"?type=healthy.tick&after={after}"):
                late[event["source"]].append(event["data"]["late"])
            return all(len(values) > 20 for values in late.values())

        wait_until(has_ticks, "20 ticks of each healthy source", 60)
        return {name: statistics.median(values) for name, values in late.items()}

    def assert_healthy(self) -> None:
        late = self.lateness()
        assert all(value < LATENESS_LIMIT for value in late.values()), late

    def wait_for_healthy_sources(self) -> None:
        wait_until(lambda: self.source("first").get("events", 0) > 20, "the healthy sources", 30)

    def wait_for_events(self, kind: str) -> list[dict[str, Any]]:
        wait_until(lambda: bool(self.almenara.events(f"?type={kind}")), kind, 60)
        return self.almenara.events(f"?type={kind}")
