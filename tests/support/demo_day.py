"""A day of the demo, generated as quickly as it can be rendered, on a clock that is moved.

A simulated Kubernetes cluster with incidents, seen through the plugin's own mapping, Ray jobs,
streams, events of stories, alerts, and sources that fail for a while.
"""

import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import almenara_kubernetes
import almenara_nats
import almenara_ray
from almenara.bus import Record
from almenara.bus.embedded import EmbeddedBus
from almenara.clock import CLOCK
from almenara.config import (
    CheckpointSettings,
    PanelSettings,
    SampleSettings,
    StorageSettings,
)
from almenara.history import History
from almenara.hookspecs import (
    Column,
    NumberPanel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    TablePanel,
)
from almenara.live.log_feed import LogFeeds
from almenara.panels.panel import Panel
from almenara.panels.past import note_of
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.state.recorder import StateRecorder
from almenara.state.resources import Resources
from almenara.state.sample_history import SampleHistory
from almenara.state.sample_store import SampleStore
from almenara.supervisor import SourceState
from almenara.units import MINUTE, SECOND
from almenara_demo.kubernetes_cluster import measure_nodes, measure_pods
from almenara_demo.kubernetes_world import World
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import KINDS, NODE_METRICS, POD_METRICS
from almenara_kubernetes.settings import KubernetesSettings
from almenara_ray.settings import RaySettings
from support.moved_clock import MovedClock

START = 1_767_225_600_000_000
STEP = 60.0
"""Seconds between two steps, as between two samples."""
OWN = [
    TablePanel(
        name="pods", title="Pods", query=ResourceQuery(kind="kubernetes.pod", limit=50),
        columns=[
            Column(title="Name", path="name"),
            Column(title="Status", path="status", format="status"),
            Column(title="CPU", path="sample.cpu", format="number", spark="cpu"),
        ],
        filters=["namespace", "name", "status", "text"],
    ),
    SeriesPanel(name="cpu", title="CPU", query=SampleQuery(kind="kubernetes.node", metric="cpu")),
    NumberPanel(
        name="memory", title="Memory", query=SampleQuery(kind="kubernetes.node", metric="memory"),
        format="bytes",
    ),
]  # fmt: skip
UNSTORED = ("alert-rules", "receivers")
"""Panels of the configuration, and those with figures of this process."""


class Sources:
    """The states of the sources of the day."""

    def __init__(self, clock: MovedClock, chance: random.Random) -> None:
        self._clock, self._chance = clock, chance
        self._states = [
            SourceState(name=name, plugin=name, status="running", since=clock.now())
            for name in ("kubernetes", "nats", "ray")
        ]

    def step(self) -> None:
        for state in self._states:
            state.rate = round(self._chance.random() * 20, 1)
            state.events += int(state.rate * STEP)
            if self._chance.random() < 0.08:
                is_running = state.status == "running"
                state.set_status("backing_off" if is_running else "running")
                if is_running:
                    state.record_error("connection refused")

    def states(self) -> list[SourceState]:
        return [msgspec.structs.replace(state) for state in self._states]

    def unproven(self) -> dict[str, int]:
        return {
            state.name: state.idle_since or state.since
            for state in self._states
            if state.is_unproven
        }


class DemoDay:
    """The day: `step` moves the clock and lets things happen."""

    def __init__(self, view: View, recorder: StateRecorder, store: SampleStore, clock: MovedClock):
        self.view, self.recorder, self.store, self.clock = view, recorder, store, clock
        self.chance = random.Random(5)
        self.sources = Sources(clock, self.chance)
        self.view = msgspec.structs.replace(view, sources=self.sources)
        self.view.resources.unproven_sources = self.sources.unproven
        self.renderer = Renderer()
        self.renderer.environment.globals["asset"] = lambda name: f"/static/{name}"
        self.panels = PanelRegistry(self.renderer)
        kubernetes = msgspec.convert({"clusters": [{}]}, KubernetesSettings)
        ray = msgspec.convert(
            {"clusters": [{"name": "lab", "url": "http://127.0.0.1:1"}]}, RaySettings
        )
        for name, module, settings in (
            ("kubernetes", almenara_kubernetes, kubernetes),
            ("nats", almenara_nats, None),
            ("ray", almenara_ray, ray),
        ):
            self.panels.add(
                name, module.almenara_panels(settings), module.almenara_templates(),  # type: ignore[attr-defined]
                module.almenara_pages(settings),  # type: ignore[attr-defined]
            )  # fmt: skip
        self.panels.add("own", OWN, None)
        self._world = World(60, clock.now)
        self._differ = ClusterDiffer()
        self._number = 0

    async def step(self) -> None:
        """Let a minute pass."""
        self.clock.move(STEP)
        self._number += 1
        if self.chance.random() < 0.3:
            self._world.incident()
        self._world.step()
        self.sources.step()
        self.recorder.note_sources([note_of(state) for state in self.sources.states()])
        signals = [*self._kubernetes(), *self._fleet()]
        after = self.view.bus.last_sequence
        await self.view.bus.publish(signals, "kubernetes")
        records: list[Record] = []
        async for batch in self.view.bus.subscribe(after):
            records += batch
            if records[-1].sequence >= self.view.bus.last_sequence:
                break
        self.view.resources.accept(records)
        if self._number % 3 == 0:
            await self.recorder.flush()
        if self._number % 45 == 0:
            await self.recorder.checkpoint(self.view.resources.present())
        if self._number % 20 == 0:
            await self.store.flush()
            await self.store.maintain()

    def _kubernetes(self) -> list[Signal]:
        signals: list[Signal] = []
        for kind in KINDS:
            trees = self._world.objects.get(kind.api_kind, {}).values()
            objects = [kind.decode(msgspec.json.encode(tree)) for tree in trees]
            signals += self._differ.replace_all(kind, "", objects)
        for kind, measure in ((POD_METRICS, measure_pods), (NODE_METRICS, measure_nodes)):
            trees = measure(self._world, self.clock.now())
            objects = [kind.decode(msgspec.json.encode(tree)) for tree in trees]
            signals += self._differ.usage(kind, objects)
        return signals

    def _fleet(self) -> list[Signal]:
        now, chance, number = self.clock.now(), self.chance, self._number
        story = f"US-{number // 10}"
        signals: list[Signal] = [
            Event(
                id=f"{number}-{place}", source="nats/PLANNING", origin="nats/PLANNING",
                type=f"planning.{chance.choice(('task', 'plan', 'story'))}.done", subject=story,
                # Some were sent a while before they arrive.
                time=now - chance.choice((0, 0, 0, 90 * SECOND)), correlation=story,
                severity=chance.choice((Severity.INFO, Severity.INFO, Severity.ERROR)),
                data={"story": story, "number": number},
            )
            for place in range(chance.randrange(4))
        ]  # fmt: skip
        for stream in ("PLANNING", "AGENTS"):
            is_stalled = chance.random() < 0.1
            signals += [
                Resource(
                    kind="nats.consumer", namespace=stream, name="worker", origin="nats",
                    status="stalled" if is_stalled else "ok",
                    severity=Severity.ERROR if is_stalled else Severity.INFO,
                    state={"since": now} if is_stalled else {},
                ),
                Resource(kind="nats.stream", name=stream, status="ok", origin="nats"),
                *(
                    Sample(kind="nats.stream", name=stream, metric=metric, origin="nats",
                           time=now, value=float(chance.randrange(1_000)))
                    for metric in ("rate", "messages", "bytes")
                ),
                Sample(kind="nats.consumer", namespace=stream, name="worker", metric="pending",
                       origin="nats", time=now, value=float(chance.randrange(300))),
            ]  # fmt: skip
        status = chance.choice(("PENDING", "RUNNING", "FAILED", "SUCCEEDED"))
        signals.append(
            Resource(
                kind="ray.job", namespace="lab", name=f"train-{number // 20}", status=status,
                origin="ray",
                state={"submitted": now - 5 * MINUTE, "entrypoint": "python train.py"},
            )
        )  # fmt: skip
        signals.append(
            Resource(
                kind="almenara.alert", namespace="pod-failing", name=f"f{number % 3}",
                status=chance.choice(("firing", "pending", "resolved")), origin="kubernetes",
                severity=Severity.ERROR,
                state={"severity": "ERROR", "started": now, "since": now, "labels": {},
                       "annotations": {"summary": f"pods fail, {number}"}},
            )
        )  # fmt: skip
        return signals

    def chosen_panels(self) -> list[tuple[Panel, Mapping[str, str]]]:
        """Every panel whose content is stored, with filters that have it show something."""
        pods = [pod for pod in self.view.resources.of_kind("kubernetes.pod") if not pod.deleted]
        pod = pods[self.chance.randrange(len(pods))]
        named = {
            "kubernetes": {"namespace": pod.namespace, "name": pod.name},
            "": {"rule": "pod-failing", "name": "f1"},
        }
        return [
            (panel, named.get(panel.plugin, {}) if "name" in panel.filters else {})
            for panel in self.panels.values()
            if panel.name not in UNSTORED and panel.log_query is None
        ]

    async def render(
        self, view: View, chosen: Sequence[tuple[Panel, Mapping[str, str]]]
    ) -> dict[str, str]:
        """The text of panels, by name."""
        return {
            panel.name: await panel.render(view, panel.parse_filters(query), self.renderer)
            for panel, query in chosen
        }


@contextlib.asynccontextmanager
async def open_day(folder: Path) -> AsyncIterator[DemoDay]:
    """A day that has not started yet."""
    clock = MovedClock(START)
    token = CLOCK.set(clock)
    settings = PanelSettings()
    try:
        async with (
            EmbeddedBus(StorageSettings(dir=folder)) as bus,
            SampleStore(folder, SampleSettings(), bus, clock=clock) as store,
            StateRecorder(folder, CheckpointSettings(), clock) as recorder,
        ):
            await store._catch_up()
            resources = Resources(store, recorder)
            sources: Any = None
            view = View(
                bus=bus, history=History(bus), resources=resources, sources=sources,
                settings=settings, log_feeds=LogFeeds(),
                samples=SampleHistory(store, resources),
            )  # fmt: skip
            day = DemoDay(view, recorder, store, clock)
            await recorder.checkpoint([])
            yield day
    finally:
        CLOCK.reset(token)
