"""The metrics of a running Almenara, for Prometheus."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from almenara.bus import Bus, SnapshotStatus
from almenara.live.hub import Hub
from almenara.state.sample_store import SampleStore
from almenara.supervisor import SourceState, Supervisor
from almenara.units import SECOND

SOURCE_LABELS: Final = ("source",)
LOOP_LAG_INTERVAL: Final = 0.5


class LoopLag:
    """Measures how late the event loop runs what is due, in seconds."""

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
    """The metrics of a running Almenara, read at each scrape."""

    def __init__(
        self,
        bus: Bus,
        supervisor: Supervisor,
        hub: Hub,
        loop_lag: LoopLag,
        samples: SampleStore | None,
    ) -> None:
        self.bus, self.supervisor = bus, supervisor
        self.hub, self.loop_lag, self.samples = hub, loop_lag, samples

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its current value."""
        yield from self._collect_counters()
        yield from self._collect_gauges()
        if self.samples is not None:
            yield from collect_samples(self.samples)
        yield from collect_sources(self.supervisor.states())

    def _collect_counters(self) -> Iterator[Metric]:
        bus, live = self.bus.counters, self.hub.counters
        for name, help_text, value in (
            ("almenara_ingested", "Signals written to the bus.", bus.ingested),
            ("almenara_deduplicated", "Events not stored because they were stored before.",
             bus.deduplicated),
            ("almenara_retention_removed", "Signals removed by retention.", bus.removed),
            ("almenara_bus_commits", "Transactions of the bus.", bus.commits),
            ("almenara_bus_commit_seconds", "Time spent in bus transactions.", bus.commit_seconds),
            ("almenara_frames", "Frames sent to browsers.", live.frames),
            ("almenara_frames_skipped", "Frames not sent to slow browsers.", live.skipped),
            ("almenara_panel_renders", "Panels rendered.", live.renders),
            ("almenara_slow_browsers", "Browsers disconnected for being too slow.", live.too_slow),
        ):  # fmt: skip
            yield CounterMetricFamily(name, help_text, value)

    def _collect_gauges(self) -> Iterator[Metric]:
        bus, lag = self.bus.counters, self.loop_lag
        for name, help_text, value in (
            ("almenara_last_sequence", "Sequence of the newest signal.", self.bus.last_sequence),
            ("almenara_bus_waiting", "Signals waiting for the writer.", bus.waiting),
            ("almenara_bus_last_commit_seconds", "Duration of the last bus transaction.",
             bus.last_commit_seconds),
            ("almenara_bus_write_failed", "1 while the bus cannot write.",
             float(self.bus.write_problem is not None)),
            ("almenara_bus_lag_seconds", "Time by which this replica is behind a shared bus.",
             self.bus.lag),
            ("almenara_storage_warnings", "Problems of the storage that need attention.",
             len(self.bus.warnings)),
            ("almenara_websocket_clients", "Browsers connected.", self.hub.clients),
            ("almenara_channels", "Channels with at least one browser.", len(self.hub)),
            ("almenara_loop_lag_seconds", "Latest delay of the event loop.", lag.last),
            ("almenara_loop_lag_longest_seconds", "Longest delay of the event loop.", lag.longest),
        ):  # fmt: skip
            yield GaugeMetricFamily(name, help_text, value)
        if (snapshot := self.bus.snapshot) is not None:
            yield from collect_snapshot(snapshot)
        if (problems := self.bus.replica_problems) is not None:
            yield GaugeMetricFamily(
                "almenara_bus_replicas_different",
                "Replicas of a shared bus with the name of this one, or with other settings that"
                " must be equal.",
                len(problems),
            )


def collect_snapshot(snapshot: SnapshotStatus) -> Iterator[Metric]:
    """Yield the metrics of the newest snapshot of a shared bus."""
    for name, help_text, value in (
        ("almenara_bus_snapshot_timestamp_seconds",
         "When the newest snapshot of a shared bus was written; 0 for never.",
         snapshot.created / SECOND),
        ("almenara_bus_snapshot_usable",
         "1 while a replica with an empty folder could start from a shared bus.",
         float(snapshot.is_usable)),
    ):  # fmt: skip
        yield GaugeMetricFamily(name, help_text, value)


def collect_samples(store: SampleStore) -> Iterator[Metric]:
    """Yield the metrics of the sample store; those of left out samples by their origin."""
    report = store.report
    for name, help_text, value in (
        ("almenara_samples_waiting", "Samples that are not written yet.", store.pending),
        ("almenara_sample_series", "Series of samples that are stored.", report.series),
        ("almenara_sample_store_bytes", "Size of the sample store.", report.bytes_used),
        ("almenara_sample_store_write_failed", "1 while samples cannot be stored.",
         float(report.problem is not None)),
    ):  # fmt: skip
        yield GaugeMetricFamily(name, help_text, value)
    left_out = CounterMetricFamily(
        "almenara_samples_left_out",
        "Samples that were not stored: too many series, or a wrong time.",
        labels=("origin", "reason"),
    )
    for reason, counts in (("series", report.refused), ("time", store.out_of_range)):
        for origin, count in counts.items():
            left_out.add_metric([origin, reason], count)
    yield left_out


def collect_sources(states: Sequence[SourceState]) -> Iterator[Metric]:
    """Yield the metrics of the sources, each labelled with the name of its source."""
    events = CounterMetricFamily(
        "almenara_source_events", "Events published.", labels=SOURCE_LABELS
    )
    rejected = CounterMetricFamily(
        "almenara_source_rejected",
        "Malformed messages, stored with their problem.",
        labels=SOURCE_LABELS,
    )
    left_out = CounterMetricFamily(
        "almenara_source_left_out",
        "Events not stored: left out by storage.ingest_rules, or text displayed while written.",
        labels=SOURCE_LABELS,
    )
    restarts = CounterMetricFamily(
        "almenara_source_restarts", "Restarts of the source.", labels=SOURCE_LABELS
    )
    up = GaugeMetricFamily(
        "almenara_source_up",
        "1 while the source is running, on the replica that runs it.",
        labels=SOURCE_LABELS,
    )
    lag = GaugeMetricFamily(
        "almenara_source_lag", "Messages upstream that are not read yet.", labels=SOURCE_LABELS
    )
    for state in states:
        if state.is_reported:
            # The replica that runs it has its metrics.
            continue
        events.add_metric([state.name], state.events)
        rejected.add_metric([state.name], state.rejected)
        left_out.add_metric([state.name], state.left_out)
        restarts.add_metric([state.name], state.restarts)
        if not state.is_remote:
            up.add_metric([state.name], float(state.status == "running"))
        if state.lag is not None:
            lag.add_metric([state.name], state.lag)
    yield from (events, rejected, left_out, restarts, up, lag)


def build_registry(metrics: ServiceMetrics) -> CollectorRegistry:
    """Return a registry of these metrics and those of the process."""
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    return registry
