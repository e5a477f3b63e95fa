"""A whole application in this process, fed by two teams, and what it answers to limited scopes.

Its clock stands still, so that two of them, with and without the signals of the second team, answer
the same bytes as long as nothing hidden shows.
"""

import asyncio
import importlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import httpx
import yaml

import almenara
from almenara.alerting import SOURCE
from almenara.bus.embedded import EmbeddedBus
from almenara.config import Settings, load_settings
from almenara.hookspecs import EventQuery, SampleQuery, SourceReport
from almenara.live.channel import Channel
from almenara.live.frames import Frame
from almenara.live.outbox import Outbox
from almenara.panels.past import note_of
from almenara.plugins import PluginRegistry, load_plugins
from almenara.runtime import Application, compose, create_bus
from almenara.scope import FULL_SCOPE, Grant, build_scope
from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.state.recorder import StateRecorder
from almenara.state.sample_store import SampleStore
from almenara.units import SECOND
from almenara.web.app import create_app

PATIENCE: Final = 180.0
START: Final = 1_767_225_600 * SECOND
OURS, THEIRS = "ours", "theirs"
GRANTS: Final[Mapping[str, Grant]] = {
    "source": Grant(sources=(OURS,)),
    "type": Grant(types=(f"{OURS}.*",)),
    "namespace": Grant(namespaces=(OURS,)),
    "label": Grant(labels=(("team", OURS),)),
    "nothing": Grant(sources=("nothing",)),
}
"""Scopes that hide everything of the second team."""
SETTINGS: Final[Mapping[str, Any]] = {
    "auth": {"mode": "token"},
    "server": {"requests_per_second": 1_000_000, "request_burst": 1_000_000},
    "alerting": {
        "enabled": True,
        "rules": [
            {
                "name": "failed",
                "when": {"resource": {"kind": "team.part", "status": ["failed"]}},
                "annotations": {"summary": "{{ namespace }}: {{ state.text }}"},
            },
            {
                "name": "loaded",
                "when": {"sample": {"kind": "team.part", "metric": "load", "above": 0}},
                "annotations": {"summary": "{{ namespace }}: load {{ value }}"},
            },
        ],
    },
    "intake": {"hook": {"kind": "webhook"}, "events": {"kind": "cloudevents"}},
    "supervisor": {"isolation": "task"},
    "plugins": {
        "agents": {"enabled": True, "texts": "viewer"},
        "http": {"checks": [{"name": "a", "url": "http://127.0.0.1:1"}]},
        "kubernetes": {"clusters": [{"kubeconfig": "missing", "context": "a"}], "logs": True},
        "neo4j": {
            "deployments": [
                {"name": "a", "urls": ["bolt://127.0.0.1:1"], "graphs": [{"name": OURS}]}
            ]
        },
        "prometheus": {
            "targets": [{"name": "a", "url": "http://127.0.0.1:1", "presets": ["vllm"]}]
        },
        "ray": {"clusters": [{"name": "a", "url": "http://127.0.0.1:1"}]},
        "valkey": {"deployments": [{"name": "a", "urls": ["redis://127.0.0.1:1"]}]},
        "vllm": {"servers": [{"name": "a", "url": "http://127.0.0.1:1"}]},
    },
}
"""With every plugin, so that every panel exists. Their sources are replaced by those of the teams."""  # noqa: E501


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    text: str
    seconds: float


class StandingClock:
    """The time of everything in this process; it stands still until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def now(self, *_: object) -> int:
        return self.time


class TeamSource:
    """A source that publishes what it is passed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._batches: asyncio.Queue[tuple[Sequence[Signal], asyncio.Event]] = asyncio.Queue()

    async def run(self, publish: Callable[[Sequence[Signal]], Any], report: SourceReport) -> None:
        # It works, whether it publishes anything or not.
        report.recovered()
        while True:
            batch, is_done = await self._batches.get()
            await publish(batch)
            is_done.set()

    async def publish(self, batch: Sequence[Signal]) -> None:
        """Return once a batch is stored."""
        is_done = asyncio.Event()
        await self._batches.put((batch, is_done))
        await is_done.wait()


class Viewer:
    """A connection to the hub that collects its frames."""

    waiting = 0

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.outbox: Outbox | None = None

    @property
    def channel(self) -> Channel:
        assert self.outbox is not None
        (channel,) = self.outbox.channels
        assert isinstance(channel, Channel)
        return channel

    @property
    def snapshot(self) -> str:
        """What a browser that connects now is sent."""
        return self.channel.snapshot().text

    @property
    def is_changed(self) -> bool:
        """Whether the channel is going to render."""
        return self.channel._changed.is_set()

    def write(self, frame: Frame) -> None:
        self.frames.append(frame.text)

    def end(self) -> None:
        """The hub closes every connection when it stops."""


class ScopedApplication:
    """An application with the sources of two teams, and a token for each scope."""

    def __init__(self, application: Application, sources: Mapping[str, TeamSource]) -> None:
        self.application, self.sources = application, sources
        self.services = application.services
        self.tokens: dict[str, str] = {}
        self.sequences: dict[str, int] = {}
        """An event of each team; that of the second one may be hidden, or not exist."""
        transport = httpx.ASGITransport(app=create_app(self.services))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def create_tokens(self, folder: Path) -> None:
        for name, grant in {**GRANTS, "all": Grant()}.items():
            token, text = create_token(name, Role.OPERATOR, [grant], 3600, created_by="a test")
            AccessStore(folder).add_token(token)
            self.tokens[name] = text
        await self.services.access.credentials.load()

    async def request(self, method: str, path: str, caller: str, **more: Any) -> Answer:
        """Send a request with the token of a scope. `<ours>` in the path is the sequence of an
        event of that team."""
        for team, sequence in self.sequences.items():
            path = path.replace(f"<{team}>", str(sequence))
        headers = {"authorization": f"Bearer {self.tokens[caller]}"}
        started = time.perf_counter()
        answer = await self.client.request(method, path, headers=headers, **more)
        return Answer(answer.status_code, answer.text, time.perf_counter() - started)

    async def publish(self, team: str, batch: Sequence[Signal]) -> None:
        """Publish a batch, and return once every part of the application has it."""
        await self.sources[team].publish(batch)
        bus, resources = self.services.bus, self.application.resources
        await wait_for(lambda: resources.sequence >= bus.last_sequence)
        # Noted here and not at intervals, so that both applications note the same figures.
        states = self.services.supervisor.states()
        self.application.recorder.note_sources([note_of(state) for state in states])
        await self.application.recorder.flush()

    async def watch(self, caller: str, channel: str) -> Viewer:
        """Subscribe a viewer with a scope to a channel, up to its first frame."""
        viewer = Viewer()
        viewer.outbox = self.services.hub.connect(viewer)
        scope = FULL_SCOPE if caller == "all" else build_scope([GRANTS[caller]], access_log=False)
        await self.services.hub.subscribe(viewer.outbox, [channel], None, scope)
        return viewer


async def wait_for(condition: Callable[[], bool]) -> None:
    """Return once a condition holds. Raises `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def run_scoped_application(folder: Path) -> AsyncIterator[ScopedApplication]:
    """Run an application without a port. Both teams have a source in it, which waits."""
    folder.mkdir()
    file = folder / "almenara.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, "storage": {"dir": str(folder / "var")}}))
    settings = load_settings(file, {})
    sources = {team: TeamSource(team) for team in (OURS, THEIRS)}
    plugins = load_team_plugins(sources)
    bus = create_bus(settings, plugins)
    assert isinstance(bus, EmbeddedBus)
    async with (
        bus,
        SampleStore(settings.storage.dir, settings.samples, bus) as samples,
        StateRecorder(settings.storage.dir, settings.checkpoints) as recorder,
    ):
        application = await compose(settings, plugins, bus, samples, recorder)
        scoped = ScopedApplication(application, sources)
        await scoped.create_tokens(settings.storage.dir)
        hub = application.services.hub
        async with asyncio.TaskGroup() as group:
            work = [
                application.resources.follow(bus, application.replay_from),
                samples.run(),
                recorder.run(application.resources.present),
                application.services.supervisor.run(),
            ]
            if application.alerting is not None:
                work.append(application.alerting.run())
            tasks = [group.create_task(each) for each in work]
            hub.start()
            try:
                # They are published at intervals. The time that they carry must be that of the
                # start in every application, so nothing else happens before.
                await wait_for(lambda: published_sources(application) >= sources.keys())
                yield scoped
            finally:
                await hub.close()
                await application.log_feeds.close()
                await scoped.client.aclose()
                for task in tasks:
                    task.cancel()


def published_sources(application: Application) -> set[str]:
    """The sources that the bus has as running."""
    return {
        resource.name
        for resource in application.resources.present()
        if resource.kind == SOURCE and resource.status == "running"
    }


def load_team_plugins(sources: Mapping[str, TeamSource]) -> PluginRegistry:
    """All installed plugins, of which only the sources of the teams run."""
    plugins = load_plugins()
    module = ModuleType("teams")

    @almenara.hookimpl
    def almenara_sources() -> list[TeamSource]:
        return list(sources.values())

    module.almenara_sources = almenara_sources  # type: ignore[attr-defined]
    plugins.register("teams", module)
    create = plugins.hooks.sources
    plugins.hooks.sources = (  # type: ignore[method-assign]
        lambda name, *more: create(name, *more) if name == "teams" else []
    )
    plugins.hooks.processors = lambda *_: []  # type: ignore[method-assign]
    return plugins


def declared_panels(settings: Settings) -> dict[str, list[Any]]:
    """The panels that plugins declare, by plugin."""
    plugins = load_plugins()
    return {
        name: list(plugins.hooks.panels(name, plugins.settings(name, settings)))
        for name in plugins.modules
    }


def list_kinds(panels: Mapping[str, Iterable[Any]]) -> dict[str, set[str]]:
    """The kinds of resources that panels read, each with its metrics."""
    kinds: dict[str, set[str]] = {"team.part": {"load"}}
    for plugin, declarations in panels.items():
        try:
            constants = vars(importlib.import_module(f"almenara_{plugin}.kinds")).values()
        except ModuleNotFoundError:
            constants = ()
        for value in constants:
            if isinstance(value, str) and re.fullmatch(rf"{plugin}\.[a-z_]+", value):
                kinds.setdefault(value, set())
        for panel in declarations:
            query = getattr(panel, "query", None)
            kind = getattr(query, "kind", "")
            if not kind or "*" in kind or ">" in kind:
                continue
            metrics = kinds.setdefault(kind, set())
            if isinstance(query, SampleQuery):
                metrics.add(query.metric)
            for column in getattr(panel, "columns", ()):
                if column.path.startswith("sample."):
                    metrics.add(column.path.removeprefix("sample."))
                metrics |= {column.spark} if column.spark else set()
    return kinds


def list_event_types(panels: Mapping[str, Iterable[Any]]) -> list[str]:
    """A type for each query of events."""
    types = {"other.happened", "agent.tool.called"}
    for declarations in panels.values():
        for panel in declarations:
            query = getattr(panel, "query", None)
            if isinstance(query, EventQuery) and "type" in query.filter:
                types.add(str(query.filter["type"]).replace("*", "x").replace(">", "x.y"))
    return sorted(types)


def make_signals(team: str, number: int, panels: Mapping[str, Iterable[Any]]) -> list[Signal]:
    """What a team publishes in one batch: an event of each type, a resource of each kind, and a
    sample of each metric."""
    text = f"text of {team} {number}"
    signals: list[Signal] = [
        Event(
            id=f"{team}-{number}-{kind}", source=f"{team}-system", type=kind, time=START + number,
            subject=f"part-of-{team}", correlation="shared", severity=severity,
            origin=f"{team}/part", data={"message": text},
            attributes={"namespace": team, "labels": f"team={team}"},
        )
        for kind, severity in (
            (f"{team}.happened", Severity.WARN), (f"{team}.failed", Severity.ERROR),
            *((each, Severity.ERROR) for each in list_event_types(panels)),
        )
    ]  # fmt: skip
    for step, data in (
        ("stream_start", {"stream_info": {"role": "DEV", "model": "m"}}),
        ("token", {"position": number, "token": f"written by {team} {number} "}),
    ):
        signals.append(
            Event(
                id=f"{team}-{number}-{step}", source=f"{team}-system", type=f"vllm_{step}",
                subject=f"vllm.streaming.part-of-{team}", time=START + number,
                origin=f"{team}/part",
                attributes={"namespace": team, "labels": f"team={team}"},
                data={"agent_id": f"part-of-{team}", "story_id": f"story-{team}", **data},
            )
        )  # fmt: skip
    state = {
        "text": text, "labels": {"team": team}, "members": [f"part-of-{team}"], "x": 1.0, "y": 1.0,
        "story": f"story-{team}", "key": "shared", "caption": text,
    }  # fmt: skip
    status = "failed" if number % 2 else "ok"
    for kind, metrics in sorted(list_kinds(panels).items()):
        # As their plugins name them, or no panel would find them.
        about = {
            "namespace": "" if kind.startswith("agents.") else team,
            "name": team if kind == "neo4j.graph" else f"part-of-{team}",
            "origin": f"{team}/part",
        }
        # The labels of a node of Neo4j are no labels of a scope.
        own = {**state, "labels": ["Story"]} if kind == "neo4j.node" else state
        signals.append(Resource(kind=kind, **about, status=status, state=own, time=START + number))
        signals += [
            Sample(
                kind=kind, **about, metric=metric, value=float(number),
                time=START + number * SECOND,
            )
            for metric in sorted(metrics)
        ]  # fmt: skip
    return signals
