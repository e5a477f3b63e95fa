"""Derives agents, councils, deliberations, tasks and stories from events: a function of the log."""

from collections.abc import Iterable
from typing import Final

from almenara.hookspecs import Step, Subscription
from almenara.signals import Event, Resource, Signal
from almenara_agents.agent_derivation import check_silence, derive_activity
from almenara_agents.genai import SPAN_TYPES, read_span
from almenara_agents.kinds import SOURCE
from almenara_agents.mapping import Fact, Mapper, Unusable, to_name
from almenara_agents.observation import ORIGINS, check_origin, note_origin
from almenara_agents.publication import Publication
from almenara_agents.settings import AgentsSettings
from almenara_agents.story_derivation import derive_story
from almenara_agents.task_derivation import check_task, derive_task, remove_member
from almenara_agents.turn_derivation import check_trace, derive_turn

ACTIVITIES: Final = frozenset(
    ("generation_started", "token", "generation_completed", "tool_called")
)
STORIES: Final = frozenset(("story_created", "story_moved"))


class AgentsProcessor:
    """Reads facts from events, and publishes the resources that they change."""

    name = SOURCE

    def __init__(self, settings: AgentsSettings) -> None:
        self._settings, self._mapper = settings, Mapper(settings.mappings)
        self.subscription = Subscription(
            events=(*self._mapper.types, *SPAN_TYPES), resources=tuple(ORIGINS)
        )

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        """Derive from an event, or from whether its origin can be read."""
        if isinstance(signal, Resource):
            publication = Publication(step, self._settings)
            note_origin(publication, signal)
            return publication.signals
        if not isinstance(signal, Event):
            return ()
        if signal.type in SPAN_TYPES and self._mapper.find_rule(signal.type) is None:
            return derive_span(signal, step, self._settings)
        fact = self._mapper.read(signal, step.time, step.sequence)
        if isinstance(fact, Unusable):
            return ()
        return derive(fact, signal.origin, step, self._settings)

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        """Derive from silence."""
        publication = Publication(step, self._settings)
        kind, _, name = key.partition("/")
        if kind == "task":
            check_task(publication, name)
        elif kind == "trace":
            check_trace(publication, name)
        elif kind == "origin":
            check_origin(publication, name)
        elif not check_silence(publication, name):
            remove_member(publication, name)
        return publication.signals


def derive_span(event: Event, step: Step, settings: AgentsSettings) -> list[Signal]:
    """What an event about a span changes."""
    publication = Publication(step, settings)
    publication.origin = event.origin
    fact, trace = read_span(event, step.time), to_name(event.correlation)
    if fact is not None and trace:
        derive_turn(publication, trace, fact)
    return publication.signals


def derive(fact: Fact, origin: str, step: Step, settings: AgentsSettings) -> list[Signal]:
    """What a fact from an origin changes."""
    publication = Publication(step, settings)
    publication.origin = origin
    if fact.step in STORIES:
        derive_story(publication, fact)
    elif fact.step in ACTIVITIES:
        derive_activity(publication, fact)
    else:
        derive_task(publication, fact)
    return publication.signals
