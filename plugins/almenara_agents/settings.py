"""The settings of the agents plugin."""

from typing import Annotated

import msgspec

from almenara_agents.kinds import FieldName, StepName

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=5_000)]


class MappingSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What events of some types mean, where they differ from the built-in vocabulary."""

    types: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Types of events, or patterns of them: `acme.run.*`."""
    step: StepName
    """What such an event reports."""
    fields: dict[FieldName, str] = {}
    """Where its fields are, as paths in the payload: `agent: worker.name`. Fields that are not
    listed are read as in the built-in vocabulary."""
    subject: FieldName | None = None
    """Field that the last part of the subject has, if the payload does not have it."""


class AgentsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Agents, councils, deliberations, tasks and stories, derived from events."""

    enabled: bool = False
    """Whether agents are derived from the events of a fleet, and the page about them exists."""
    mappings: list[MappingSettings] = []
    """Further vocabularies of events; they take precedence over the built-in one."""
    stuck_factor: Annotated[float, msgspec.Meta(gt=1)] = 2.0
    """An agent is stuck when it is silent for this many times the usual duration of its step."""
    min_silence: Positive = 30.0
    """Seconds of silence before which no agent is stuck."""
    default_silence: Positive = 600.0
    """Seconds of silence after which an agent is stuck while the usual duration is unknown."""
    abandon_after: Positive = 21_600.0
    """Seconds of silence after which a deliberation without an end has failed, and a task is
    lost."""
    agent_retention: Positive = 86_400.0
    """Seconds of silence after which an idle agent is deleted."""
    finished_limit: Count = 200
    """Finished deliberations and tasks that remain as resources."""
    story_limit: Count = 300
    """Stories that remain as resources: those with the newest events."""
    loop_length: Annotated[int, msgspec.Meta(ge=2)] = 5
    """Equal tool calls in a row that are a loop."""
