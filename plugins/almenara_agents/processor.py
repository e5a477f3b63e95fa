"""Derives agents, councils, deliberations, tasks and stories from events: a function of the log."""

from collections.abc import Iterable
from typing import Final

from almenara.hookspecs import Step, Subscription
from almenara.signals import Event, Signal
from almenara_agents.agent_derivation import check_silence, derive_activity
from almenara_agents.kinds import SOURCE
from almenara_agents.mapping import Fact, Mapper, Unusable
from almenara_agents.publication import Publication
from almenara_agents.settings import AgentsSettings
from almenara_agents.story_derivation import derive_story
from almenara_agents.task_derivation import check_task, derive_task, remove_member

ACTIVITIES: Final = frozenset(
    ("generation_started", "token", "generation_completed", "tool_called")
)
STORIES: Final = frozenset(("story_created", "story_moved"))


class AgentsProcessor:
    """Reads facts from events, and publishes the resources that they change."""

    name = SOURCE

    def __init__(self, settings: AgentsSettings) -> None:
        self._settings, self._mapper = settings, Mapper(settings.mappings)
        self.subscription = Subscription(events=self._mapper.types)

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        """Derive from an event."""
        if not isinstance(signal, Event):
            return ()
        fact = self._mapper.read(signal, step.time, step.sequence)
        return () if isinstance(fact, Unusable) else derive(fact, step, self._settings)

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        """Derive from silence."""
        publication = Publication(step, self._settings)
        kind, _, name = key.partition("/")
        if kind == "task":
            check_task(publication, name)
        elif not check_silence(publication, name):
            remove_member(publication, name)
        return publication.signals


def derive(fact: Fact, step: Step, settings: AgentsSettings) -> list[Signal]:
    """What a fact changes."""
    publication = Publication(step, settings)
    if fact.step in STORIES:
        derive_story(publication, fact)
    elif fact.step in ACTIVITIES:
        derive_activity(publication, fact)
    else:
        derive_task(publication, fact)
    return publication.signals
