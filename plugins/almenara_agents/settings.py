"""The settings of the agents plugin."""

from typing import Annotated, Literal

import msgspec

from almenara_agents.kinds import FieldName, StepName

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=5_000)]
Tokens = Annotated[int, msgspec.Meta(ge=0)]


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


class Price(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The price of a model."""

    input: Annotated[float, msgspec.Meta(ge=0)]
    """Price of a million input tokens."""
    output: Annotated[float, msgspec.Meta(ge=0)]
    """Price of a million output tokens."""


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
    texts: Literal["hidden", "operator", "viewer"] = "hidden"
    """Who can read what language models write, while they write it: no one, operators, or every
    viewer whose scope includes its source. It is not stored either way."""
    store_tokens: bool = False
    """Whether each token is stored as an event. By default only the start and the end of a text
    are, with a summary."""
    store_content: bool = False
    """Whether prompts and completions in spans are stored. By default a digest is, so that they
    appear nowhere."""
    prices: dict[str, Price] = {}
    """Prices by model, or by a pattern of models: the first that matches."""
    currency: str = "USD"
    """Currency of the prices, as it is displayed."""
    agent_budget: Positive | None = None
    """Cost of an agent above which an event is published."""
    story_budget: Positive | None = None
    """Cost of a story above which an event is published."""
    retry_limit: Annotated[int, msgspec.Meta(ge=2)] = 3
    """Failed calls of a turn in a row that are reported."""
    context_growth: Annotated[float, msgspec.Meta(gt=1)] = 4.0
    """Growth of the context within a turn that is reported: a multiple of its first request."""
    context_minimum: Tokens = 5_000
    """Tokens of a context below which its growth is not reported."""
    loop_length: Annotated[int, msgspec.Meta(ge=2)] = 5
    """Equal tool calls in a row that are a loop."""
