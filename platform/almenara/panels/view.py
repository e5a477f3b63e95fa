"""What panels read: history, resources, sources and logs, limited to the viewer's scope."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import msgspec

from almenara.bus import Bus
from almenara.config import PanelSettings
from almenara.history import History
from almenara.hookspecs import Line, LogStream, TextStream
from almenara.panels.time_window import LIVE, TimeWindow
from almenara.scope import FULL_SCOPE, Scope
from almenara.signals import Resource
from almenara.state.resources import Resources
from almenara.state.sample_history import SampleHistory
from almenara.supervisor import SourceState


def keep_resource(resource: Resource) -> Resource:
    """The resource unchanged, where nothing is masked."""
    return resource


class Sources(Protocol):
    """The states of the sources."""

    def states(self) -> list[SourceState]: ...


class ScopedSources:
    """The states of the sources as far as a scope shows them."""

    def __init__(self, sources: Sources, scope: Scope) -> None:
        self.sources, self.scope = sources, scope

    def states(self) -> list[SourceState]:
        """The visible sources; of one that is visible in part, no figures."""
        states = []
        for state in self.sources.states():
            share = self.scope.source_share(state.name)
            if share == "whole":
                states.append(state)
            elif share == "part":
                states.append(
                    SourceState(
                        name=state.name,
                        plugin=state.plugin,
                        isolation=state.isolation,
                        status=state.status,
                        since=state.since,
                        replica=state.replica,
                        is_reported=state.is_reported,
                    )
                )
        return states


class NumberedLine(msgspec.Struct, frozen=True):
    """A line of a log and its number among all that its feed has read."""

    number: int
    line: Line


class LogFeed(Protocol):
    """The last lines of a log stream with one set of filters; shared by all its viewers."""

    listeners: set[Callable[[], None]]
    """Called after every change."""

    @property
    def lines(self) -> Sequence[NumberedLine]:
        """The lines in the buffer, oldest first."""

    @property
    def limit(self) -> int:
        """How many lines the buffer holds."""

    @property
    def read_count(self) -> int:
        """How many lines were read so far; the number of the newest."""

    @property
    def state(self) -> str:
        """`starting`, `following`, `ended` or `failed`."""

    @property
    def error(self) -> str:
        """Why it failed; empty otherwise."""

    async def wait_until_started(self, seconds: float) -> None:
        """Wait for the first lines, the end or an error, for so many seconds at most."""


class LogFeeds(Protocol):
    """The log streams of plugins, and the feeds of those that are open."""

    def stream(self, plugin: str, name: str) -> LogStream:
        """A log stream of a plugin. Raises `NotFound`."""

    def open(
        self, plugin: str, stream: str, filters: Mapping[str, str], limit: int, user: str = ""
    ) -> LogFeed:
        """Open a feed for a user; each `open` is followed by a `close_feed`.

        Raises `NotFound`, and `LimitExceeded` where the user or all together have too many open.
        """

    def close_feed(self, feed: LogFeed) -> None:
        """Close a feed for one of its users; it ends shortly after the last."""


class TextStreams(Protocol):
    """The text streams of plugins."""

    def stream(self, plugin: str, name: str) -> TextStream:
        """A text stream of a plugin. Raises `NotFound`."""


class AlertRules(Protocol):
    """The alert rules, and how their last evaluation went."""

    def list_rules(self) -> list[dict[str, Any]]:
        """A row for each: `name`, `condition`, `severity`, `origin`, `evaluations`, `evaluated`,
        `error`."""


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a moment of the past."""

    moment: int
    """Microseconds since the epoch."""
    noted: int | None = None
    """The last time at which Almenara was running until then; None where that is not stored."""
    blind: Sequence[SourceState] = ()
    """The visible sources that did not work at the moment."""
    was_running: bool = True
    """Whether Almenara was running at the moment."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that panels and pages are rendered from, limited to a scope."""

    bus: Bus
    history: History
    resources: Resources
    sources: Sources
    settings: PanelSettings
    log_feeds: LogFeeds
    samples: SampleHistory | None = None
    """Stored samples; None where they are not stored, as in tests of panels."""
    rules: AlertRules | None = None
    """None where alerting is not enabled."""
    text_streams: TextStreams | None = None
    """None where no panel displays texts while they are written."""
    redact_text: Callable[[str], str] = str
    """Masks the secrets in a text that was not stored."""
    redact_resource: Callable[[Resource], Resource] = keep_resource
    """Masks the secrets of a resource that was not stored."""
    scope: Scope = FULL_SCOPE
    user: str = ""
    """Whose limits apply to what is opened for this view; empty where no one signs in."""
    window: TimeWindow = LIVE
    """The stretch of time that the page shows."""
    past: Past | None = None
    """What is known about the moment, for a view as of one; None for the present."""

    @property
    def moment(self) -> int | None:
        """The moment that everything is as of; None for the present."""
        return None if self.past is None else self.past.moment

    def within(self, scope: Scope, user: str = "") -> Self:
        """The same view, limited to a scope, on behalf of a user."""
        if scope.is_full and not user:
            return self
        history = self.history.within(scope, user)
        resources = self.resources if scope.is_full else self.resources.within(scope)
        samples = None if self.samples is None else self.samples.within(resources, user)
        if scope.is_full:
            return msgspec.structs.replace(self, history=history, samples=samples, user=user)
        return msgspec.structs.replace(
            self,
            history=history,
            resources=resources,
            samples=samples,
            sources=ScopedSources(self.sources, scope),
            scope=scope,
            user=user,
        )
