"""What a viewer is sent does not depend on signals outside the viewer's scope.

Every kind of panel, with and without filters, for several scopes: with and without hidden signals,
the same channels render at the same times and send the same bytes.
"""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from almenara.bus import Record
from almenara.bus.embedded import EmbeddedBus
from almenara.clock import CLOCK
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.hookspecs import (
    Column,
    DataView,
    DetailPanel,
    EventQuery,
    EventsPanel,
    Line,
    LogPanel,
    LogQuery,
    NumberPanel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.live.channel import Channel
from almenara.live.hub import Hub
from almenara.live.log_channel import LogChannel
from almenara.live.log_feed import LogFeeds
from almenara.live.outbox import Counters
from almenara.live.routing import SignalRouter
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.scope import Grant, Scope
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor
from almenara.testing import ManualClock

pytestmark = pytest.mark.anyio

START: Final = 1_767_225_600_000_000
SCOPES: Final[Mapping[str, Scope]] = {
    "one source": Scope(grants=(Grant(sources=("open",)),), access_log=False),
    "one namespace": Scope(grants=(Grant(namespaces=("east",)),), access_log=False),
    "one type": Scope(grants=(Grant(types=("app.*",)),), access_log=False),
    "one label": Scope(grants=(Grant(labels=(("team", "a"),)),), access_log=False),
    "a guarded source": Scope(access_log=False, guarded=("vault",), namespaces=("east",)),
    "nothing": Scope(grants=(), access_log=False),
}
RESOURCES: Final = ResourceQuery(kind="job")
SAMPLES: Final = SampleQuery(kind="job", metric="load")
COLUMNS: Final = [
    Column(title="Name", path="name"),
    Column(title="Status", path="status", format="status"),
    Column(title="Age", path="time", format="age"),
    Column(title="Load", path="sample.load", format="number", spark="load"),
]
RESOURCE_FILTERS: Final = ["namespace", "name", "status", "text"]
FILTERS: Final[Mapping[str, Sequence[Mapping[str, str]]]] = {
    "events": (
        {}, {"text": "init*"}, {"text": '"secret init1"'}, {"type": "*.leak"},
        {"type": "vault.leak"},
        {"origin": "vault/>"}, {"severity": "ERROR"}, {"subject": "s-vault-west"},
    ),
    "resources": ({}, {"text": "init"}, {"name": "j*"}, {"namespace": "west"}, {"status": "ok"}),
    "custom": ({}, {"name": "x"}),
    "none": ({},),
}  # fmt: skip


async def prepare(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    events = await data.events({"text": "init*"}, limit=20)
    return {
        "values": [
            len(events), await data.count({}), [each.name for each in data.resources(RESOURCES)],
        ]
    }  # fmt: skip


PANELS: Final = [
    EventsPanel(
        name="events", title="E", query=EventQuery(),
        filters=["text", "type", "origin", "severity"],
    ),
    TablePanel(
        name="table", title="T", query=RESOURCES, columns=COLUMNS, filters=RESOURCE_FILTERS
    ),
    DetailPanel(
        name="detail", title="D", query=RESOURCES, columns=COLUMNS, filters=RESOURCE_FILTERS
    ),
    StatusPanel(name="status", title="S", query=RESOURCES, filters=RESOURCE_FILTERS),
    NumberPanel(name="number", title="N", query=SAMPLES, filters=RESOURCE_FILTERS),
    SeriesPanel(name="series", title="L", query=SAMPLES, filters=RESOURCE_FILTERS),
    LogPanel(name="log", title="Log", query=LogQuery(stream="log"), filters=["name", "text"]),
    TemplatePanel(name="template-events", title="T", query=EventQuery(), template="events.html"),
    TemplatePanel(name="template-resources", title="T", query=RESOURCES, template="all.html"),
    TemplatePanel(name="template-samples", title="T", query=SAMPLES, template="series.html"),
    TemplatePanel(
        name="prepared", title="T", query=EventQuery(), template="own.html", prepare=prepare,
        filters=["name"],
    ),
]  # fmt: skip
TEMPLATES: Final = {
    "events.html": "{% for event in events %}{{ event.summary }}{% endfor %}",
    "all.html": "{% for each in resources %}{{ each.resource.name }}{{ each.samples }}{% endfor %}",
    "series.html": "{% for each in series %}{{ each.resource.name }}{{ each.points }}{% endfor %}",
    "own.html": "{{ values }}",
}


class Log:
    """A log stream with one line."""

    name = "log"

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        yield [Line(text="line")]
        await asyncio.Event().wait()


def make_signals(number: int) -> list[Signal]:
    """An event, a resource and a sample for each source, namespace and team."""
    signals: list[Signal] = []
    time = START + number * 1_000
    for source, namespace, team in itertools.product(
        ("open", "vault"), ("east", "west", ""), ("a", "b")
    ):
        name = f"{source}-{namespace}-{team}"
        labels = {"team": team}
        attributes = {"labels": f"team={team}"} | ({"namespace": namespace} if namespace else {})
        for kind, severity in (("app.started", Severity.INFO), ("vault.leak", Severity.ERROR)):
            signals.append(
                Event(
                    id=f"{number}-{name}-{kind}", source=source, origin=f"{source}/x", type=kind,
                    subject=f"s-{source}-{namespace}", time=time, severity=severity,
                    data={"message": f"secret init{number}"}, attributes=attributes,
                )
            )  # fmt: skip
        signals.append(
            Resource(
                kind="job", namespace=namespace, name=f"j-{name}", origin=f"{source}/x",
                status="ok" if number % 2 else "late", time=time,
                state={"labels": labels, "init": number},
            )
        )  # fmt: skip
        signals.append(
            Sample(
                kind="job", namespace=namespace, name=f"j-{name}", origin=f"{source}/x",
                metric="load", value=float(number), time=time,
            )
        )  # fmt: skip
    return signals


def expect_visible(scope: Scope, signal: Signal, team: str) -> bool:
    """Whether a scope shows a signal; a sample is labelled as its resource is."""
    if isinstance(signal, Sample):
        return scope.permits(
            Resource(
                kind=signal.kind, namespace=signal.namespace, name=signal.name,
                origin=signal.origin, state={"labels": {"team": team}},
            )
        )  # fmt: skip
    return scope.permits(signal)


def split(scope: Scope, signals: Sequence[Signal]) -> tuple[list[Signal], list[Signal]]:
    """The signals that a scope shows, and those that it hides."""
    visible: list[Signal] = []
    hidden: list[Signal] = []
    for signal in signals:
        team = signal.id.split("-")[3] if isinstance(signal, Event) else signal.name[-1]
        (visible if expect_visible(scope, signal, team) else hidden).append(signal)
    return visible, hidden


class Stage:
    """Channels of every panel for a scope, fed step by step without any task."""

    def __init__(self, bus: EmbeddedBus, scope: Scope) -> None:
        self.bus, self.resources, self.router = bus, Resources(), SignalRouter()
        renderer = Renderer()
        registry = PanelRegistry(renderer)
        registry.add("p", PANELS, TEMPLATES)
        self.feeds = LogFeeds()
        self.feeds.add("p", [Log()])
        view = View(
            bus=bus, history=History(bus), resources=self.resources,
            sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
            log_feeds=self.feeds,
        )  # fmt: skip
        hub = Hub(view, registry, renderer)
        self.channels: dict[str, Channel] = {}
        for panel in registry.values():
            kinds = "events" if "severity" in panel.filters or "type" in panel.filters else "none"
            kinds = "resources" if "status" in panel.filters else kinds
            kinds = "custom" if panel.filters in ({"name"}, {"name", "text"}) else kinds
            for query in FILTERS[kinds]:
                filters = panel.parse_filters(query)
                key = f"{panel.name} {filters.to_query()}"
                kind = hub.channel_type(panel)
                channel = kind(key, panel, filters, view.within(scope), renderer, Counters())
                self.channels[key] = channel

    async def open(self) -> None:
        for channel in self.channels.values():
            await channel.open()
            if isinstance(channel, LogChannel) and channel._feed is not None:
                # Its lines come from a thread, which may take longer than `open` waits.
                await channel._feed.wait_until_started(10)
                await channel.tick()
                channel._changed.clear()
            self.router.add(channel)

    async def publish(self, signals: Sequence[Signal]) -> None:
        """Publish and route, as the hub does."""
        if not signals:
            return
        after = self.bus.last_sequence
        for origin in ("open", "vault"):
            await self.bus.publish(
                [each for each in signals if each.origin.startswith(origin)], origin
            )
        records: list[Record] = []
        async for batch in self.bus.subscribe(after):
            records += batch
            if records[-1].sequence >= self.bus.last_sequence:
                break
        self.resources.accept(records)
        self.router.accept(records)

    async def tick(self) -> dict[str, str]:
        """The frames of all channels that have something to render, by key."""
        frames = {}
        for key, channel in self.channels.items():
            if channel._changed.is_set():
                channel._changed.clear()
                frame = await channel.tick()
                frames[key] = "rendered, nothing new" if frame is None else frame.text
        return frames

    def snapshots(self) -> dict[str, str]:
        """What a browser that connects now is sent, by key."""
        return {key: channel.snapshot().text for key, channel in self.channels.items()}


def rank_sequences(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts with each sequence replaced by its rank: sequences count hidden signals too."""
    pattern = re.compile(r'(data-sequence=\\?"|id=\\?"e|/events/|before=)(\d+)')
    ranked = {}
    for key, text in texts.items():
        known = sorted({int(match[2]) for match in pattern.finditer(text)})
        ranks = {str(sequence): str(rank) for rank, sequence in enumerate(known)}
        ranked[key] = pattern.sub(lambda match, ranks=ranks: match[1] + ranks[match[2]], text)
    return ranked


async def play(folder: Path, scope: Scope, *, with_hidden: bool) -> list[Mapping[str, str]]:
    """Everything that the channels send, step by step."""
    clock = ManualClock(START + 10_000_000)
    token = CLOCK.set(clock)
    steps: list[Mapping[str, str]] = []
    try:
        async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
            stage = Stage(bus, scope)
            await stage.publish(split(scope, make_signals(0))[0])
            await stage.open()
            steps.append(rank_sequences(stage.snapshots()))
            for number in (1, 2):
                visible, hidden = split(scope, make_signals(number))
                if with_hidden:
                    await stage.publish(hidden)
                    steps.append(await stage.tick())
                else:
                    steps.append({})
                await stage.publish(visible)
                steps.append(rank_sequences(await stage.tick()))
            steps.append(rank_sequences(stage.snapshots()))
            await stage.feeds.close()
    finally:
        CLOCK.reset(token)
    return steps


@pytest.mark.parametrize("scope", SCOPES)
async def test_hidden_signals_change_no_frame_of_any_panel(scope: str, tmp_path: Path) -> None:
    without = await play(tmp_path / "without", SCOPES[scope], with_hidden=False)
    with_hidden = await play(tmp_path / "with", SCOPES[scope], with_hidden=True)
    cells = len(without[0])
    assert cells >= 50
    if scope != "nothing":
        assert any(without[2].values()), "visible signals must change some frame"
    for step, (expected, actual) in enumerate(zip(without, with_hidden, strict=True)):
        differing = [key for key in {*expected, *actual} if expected.get(key) != actual.get(key)]
        assert not differing, f"step {step}: {differing}"
    print(f"{scope}: {cells} channels, {len(without)} steps, 0 differ")


async def test_heartbeat_is_the_same_whatever_was_published() -> None:
    from almenara.live.hub import HEARTBEAT

    assert msgspec.json.decode(HEARTBEAT.text) == {"beat": 1}
