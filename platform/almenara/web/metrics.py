"""The figures of a running Almenara, for Prometheus."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from almenara.bus import Bus
from almenara.live.hub import Hub
from almenara.supervisor import Supervisor

SOURCE: Final = ("source",)
LOOP_LAG_INTERVAL: Final = 0.5


class LoopLag:
    """How late the event loop runs what is due."""

    def __init__(self) -> None:
        self.last = 0.0
        self.longest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(LOOP_LAG_INTERVAL)
            self.last = max(time.perf_counter() - start - LOOP_LAG_INTERVAL, 0.0)
            self.longest = max(self.longest, self.last)


class ServiceMetrics(Collector):
    """The figures of a running Almenara, read when they are asked for."""

    def __init__(self, bus: Bus, supervisor: Supervisor, channels: Hub, loop_lag: LoopLag) -> None:
        self.bus, self.supervisor = bus, supervisor
        self.channels, self.loop_lag = channels, loop_lag

    def collect(self) -> Iterator[Metric]:
        bus, channels, lag = self.bus.counters, self.channels, self.loop_lag
        states = self.supervisor.states()
        for name, text, value in (
            ("almenara_ingested", "Signals written to the bus.", bus.ingested),
            ("almenara_deduplicated", "Events left out because seen before.", bus.deduplicated),
            ("almenara_retention_removed", "Signals removed by retention.", bus.removed),
            ("almenara_bus_commits", "Transactions of the bus.", bus.commits),
            ("almenara_bus_commit_seconds", "Time spent in transactions.", bus.commit_seconds),
            ("almenara_frames", "Frames sent to browsers.", channels.counters.frames),
            ("almenara_frames_skipped", "Frames not sent to slow browsers.",
             channels.counters.skipped),
            ("almenara_panel_renders", "Panels drawn.", channels.counters.renders),
            ("almenara_slow_browsers", "Browsers dropped as too slow.",
             channels.counters.too_slow),
        ):  # fmt: skip
            yield CounterMetricFamily(name, text, value)
        for name, text, value in (
            ("almenara_last_sequence", "The newest sequence.", self.bus.last_sequence),
            ("almenara_bus_waiting", "Signals that wait for the writer.", bus.waiting),
            ("almenara_bus_last_commit_seconds", "Length of the last transaction.",
             bus.last_commit_seconds),
            ("almenara_bus_full", "1 while the bus cannot write.",
             float(self.bus.write_problem is not None)),
            ("almenara_websocket_clients", "Browsers connected.", channels.clients),
            ("almenara_channels", "Channels that somebody looks at.", len(channels)),
            ("almenara_loop_lag_seconds", "How late the event loop ran last.", lag.last),
            ("almenara_loop_lag_longest_seconds", "How late it ever ran.", lag.longest),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, text, value)
        events = CounterMetricFamily("almenara_source_events", "Events published.", labels=SOURCE)
        rejected = CounterMetricFamily(
            "almenara_source_rejected", "Messages kept with a problem marked.", labels=SOURCE
        )
        restarts = CounterMetricFamily("almenara_source_restarts", "Restarts.", labels=SOURCE)
        up = GaugeMetricFamily("almenara_source_up", "1 while running.", labels=SOURCE)
        waiting = GaugeMetricFamily("almenara_source_lag", "Messages upstream.", labels=SOURCE)
        for state in states:
            events.add_metric([state.name], state.events)
            rejected.add_metric([state.name], state.rejected)
            restarts.add_metric([state.name], state.restarts)
            up.add_metric([state.name], float(state.status == "running"))
            if state.lag is not None:
                waiting.add_metric([state.name], state.lag)
        yield from (events, rejected, restarts, up, waiting)


def registry(metrics: ServiceMetrics) -> CollectorRegistry:
    """The metrics of a running Almenara and of its process."""
    found = CollectorRegistry()
    found.register(metrics)
    ProcessCollector(registry=found)
    return found
