"""What is known while the events of agents cannot be read: what is not observed is not healthy.

The source of the events publishes what it reads them from, such as a stream of NATS, as unknown
while its system is unreachable. From then on what was derived from events of that origin is unknown
as well, and no silence is counted: an agent that is not observed is not stuck.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from almenara.signals import STALE_SINCE, UNKNOWN, Resource
from almenara.units import SECOND
from almenara_agents.agent_derivation import store_agent
from almenara_agents.agents import AgentRecord, CouncilRecord, StoryRecord
from almenara_agents.publication import Publication
from almenara_agents.story_derivation import store_story
from almenara_agents.task_derivation import publish_council, republish_task
from almenara_agents.tasks import TaskRecord
from almenara_agents.usage import UsageRecord, publish_usage

ORIGINS: Final[Mapping[str, tuple[str, str]]] = {"nats.stream": ("nats", "nats/{name}")}
"""By the kind of what events are read from: the source that publishes it, and the origin of its
events."""
UNREAD_STATUSES: Final = frozenset((UNKNOWN, "offline"))
PATIENCE: Final = 5 * SECOND
"""Microseconds for which it may be unreachable, as while a server restarts."""
MAX_ORIGINS: Final = 1_000
DERIVED: Final[Sequence[tuple[str, type[Any], Callable[[Publication, str, Any], None]]]] = (
    ("agent", AgentRecord, store_agent),
    ("council", CouncilRecord, publish_council),
    ("task", TaskRecord, republish_task),
    ("story", StoryRecord, store_story),
    ("usage", UsageRecord, publish_usage),
)
"""What is stored with the origin that it was derived from, and how it is published."""
UNREAD: Final = "unread"
"""The key of when each origin that cannot be read was observed last."""


def note_origin(publication: Publication, signal: Resource) -> None:
    """Note whether what events are read from can be read."""
    source, pattern = ORIGINS[signal.kind]
    if signal.origin != source:
        return
    origin, state = pattern.format(name=signal.name), publication.state
    unread = state.get(UNREAD, dict[str, int]) or {}
    if signal.status in UNREAD_STATUSES and not signal.deleted:
        if origin in unread or len(unread) >= MAX_ORIGINS:
            return
        since = signal.state.get(STALE_SINCE)
        unread[origin] = since if isinstance(since, int) else signal.time
        state.set(UNREAD, unread)
        publication.step.set_timer(f"origin/{origin}", publication.step.time + PATIENCE)
    elif unread.pop(origin, None) is not None:
        state.set(UNREAD, unread)
        publication.step.cancel_timer(f"origin/{origin}")
        if publication.mark_observed(origin):
            republish(publication, origin)


def check_origin(publication: Publication, origin: str) -> None:
    """Mark what was derived from an origin as unknown: it could not be read for too long."""
    unread = publication.state.get(UNREAD, dict[str, int]) or {}
    if origin in unread:
        publication.mark_blind(origin, unread[origin])
        republish(publication, origin)


def republish(publication: Publication, origin: str) -> None:
    """Publish again what was derived from an origin."""
    for kind, record_type, publish in DERIVED:
        for key in publication.state.keys(f"{kind}/"):
            record = publication.state.get(key, record_type)
            if record is not None and record.origin == origin:
                publish(publication, key.removeprefix(f"{kind}/"), record)
