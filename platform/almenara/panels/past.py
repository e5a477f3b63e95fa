"""Views as of a moment: what panels would have shown then."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.errors import NotFound, Unavailable
from almenara.history import PastBound
from almenara.hookspecs import LogStream
from almenara.panels.time_window import TimeWindow
from almenara.panels.view import AlertRules, LogFeed, LogFeeds, Past, ScopedSources, View
from almenara.state.checkpoints import Note
from almenara.state.recorder import StateRecorder
from almenara.supervisor import SourceState
from almenara.supervisor.state import UNPROVEN_AFTER, WORKING
from almenara.units import SECOND

OUTAGE: Final = 45 * SECOND
"""Time without a note after which Almenara was not running; a running one notes every 10 s."""
EVERYTHING: Final = 2**62
"""A sequence beyond all others, for a past whose sequences were not noted."""
VOLATILE: Final = ("tasks", "memory", "blocked")
"""Figures of a source that only matter while they are current."""
STATUS_INTERVAL: Final = 0.25
"""Seconds between two looks at the status of the sources."""
FIGURES_INTERVAL: Final = 40
"""Looks after which a source is noted whose status does not change: ten seconds."""
NO_LOGS: Final = "Logs are read while a page is open and are not stored. Open the page live."


class PastSources:
    """The states of the sources as of a moment."""

    def __init__(self, states: Sequence[SourceState]) -> None:
        self._states = list(states)

    def states(self) -> list[SourceState]:
        return self._states


class PastRules:
    """The alert rules; their evaluations are not stored."""

    def __init__(self, rules: AlertRules) -> None:
        self._rules = rules

    def list_rules(self) -> list[dict[str, Any]]:
        return [
            {**row, "evaluations": 0, "evaluated": None, "error": ""}
            for row in self._rules.list_rules()
        ]


class PastLogFeeds:
    """No log of the past can be read."""

    def __init__(self, feeds: LogFeeds) -> None:
        self._feeds = feeds

    def stream(self, plugin: str, name: str) -> LogStream:
        return self._feeds.stream(plugin, name)

    def open(
        self, plugin: str, stream: str, filters: Mapping[str, str], limit: int, user: str = ""
    ) -> LogFeed:
        raise NotFound(NO_LOGS)

    def close_feed(self, feed: LogFeed) -> None:
        raise NotFound(NO_LOGS)


def note_of(state: SourceState) -> dict[str, Any]:
    """Return what is stored of the state of a source."""
    note: dict[str, Any] = msgspec.to_builtins(state)
    return {name: value for name, value in note.items() if name not in VOLATILE}


async def record_sources(
    recorder: StateRecorder, list_states: Callable[[], Sequence[SourceState]]
) -> None:
    """Note each change of the status of a source, and its figures at intervals, until cancelled."""
    statuses: Sequence[tuple[str, str, int, str | None]] = []
    looks = 0
    while True:
        states = list_states()
        current = [(state.name, state.status, state.since, state.error) for state in states]
        if current != statuses or looks >= FIGURES_INTERVAL:
            statuses, looks = current, 0
            recorder.note_sources([note_of(state) for state in states])
        looks += 1
        await asyncio.sleep(STATUS_INTERVAL)


def find_recorder(view: View) -> StateRecorder:
    """Return what stores the past. Raises `Unavailable`."""
    recorder = view.resources.recorder
    if recorder is None:
        raise Unavailable("the past of resources is not stored")
    return recorder


async def view_at(view: View, window: TimeWindow) -> View:
    """Return a view as of the end of a window; of a live one the view itself.

    Raises `Unavailable` where the past cannot be read, and `NotFound` where it does not reach back
    so far.
    """
    moment = window.moment
    if moment is None:
        return msgspec.structs.replace(view, window=window)
    recorder = find_recorder(view)
    resources = await view.resources.at(moment)
    if resources is None:
        raise NotFound("The stored past does not reach back to this moment")
    notes = await recorder.read_notes(moment, moment)
    note = notes[-1] if notes else None
    was_running = note is None or moment - note.time <= OUTAGE
    states = [] if note is None else read_sources(note)
    if note is not None:
        unproven = find_unproven(states, moment, None if was_running else note.time)
        resources.unproven_sources = lambda: unproven
    sources: Any = PastSources(states)
    if not view.scope.is_full:
        sources = ScopedSources(sources, view.scope)
    bound = PastBound(EVERYTHING if note is None else note.sequence, moment)
    return msgspec.structs.replace(
        view,
        window=window,
        history=view.history.as_of(bound),
        resources=resources,
        samples=None if view.samples is None else view.samples.within(resources, view.user),
        sources=sources,
        log_feeds=PastLogFeeds(view.log_feeds),
        text_streams=None,
        rules=None if view.rules is None else PastRules(view.rules),
        past=Past(
            moment=moment,
            noted=None if note is None else note.time,
            blind=[
                state
                for state in sources.states()
                if state.status not in WORKING and not state.is_unreported
            ],
            was_running=was_running,
        ),
    )


def read_sources(note: Note) -> list[SourceState]:
    """Return the sources of a note, without those that this version cannot read."""
    states = []
    for stored in note.sources or ():
        try:
            states.append(msgspec.convert(stored, SourceState))
        except msgspec.ValidationError:
            continue
    return states


def find_unproven(
    states: Sequence[SourceState], moment: int, stopped: int | None
) -> dict[str, int]:
    """Return the sources that did not work at a moment, and since when; all of them where Almenara
    had stopped."""
    if stopped is not None:
        return {state.name: state.idle_since or stopped for state in states}
    return {
        state.name: state.idle_since
        for state in states
        if state.idle_since is not None and moment - state.idle_since > UNPROVEN_AFTER
    }
