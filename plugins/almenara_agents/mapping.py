"""Reads facts about agents from events, whatever generation their payload is of.

A payload has its fields at the top level, in the `payload` of an envelope, or is the data of a
CloudEvent. Everything in it is hostile input.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from almenara.sdk import compile_pattern
from almenara.signals import Event
from almenara_agents.kinds import GENERATION_PROGRESS, FieldName, StepName
from almenara_agents.settings import MappingSettings

MAX_NAME: Final = 200
MAX_TEXT: Final = 300
MAX_MEMBERS: Final = 100
MAX_DECISIONS: Final = 20
REMEMBERED_TYPES: Final = 10_000
ENVELOPES: Final = ("payload", "data")
UNKNOWN_ROLE: Final = "unknown"
PATHS: Final[Mapping[FieldName, Sequence[str]]] = {
    "story": ("story_id", "constraints.story_id"),
    "task": ("task_id",),
    "agent": ("agent_id",),
    "role": ("role", "stream_info.role"),
    "members": ("agents",),
    "size": ("num_agents",),
    "winner": ("winner_agent_id",),
    "choice": ("choice", "voted_for"),
    "text": ("error", "proposal", "reason"),
    "phase": ("to_state",),
    "title": ("title",),
    "status": ("status",),
    "duration_ms": ("duration_ms",),
    "tokens_in": ("metrics.tokens_in",),
    "tokens_out": ("metrics.tokens_out", "total_tokens"),
    "model": ("model", "stream_info.model"),
    "tool": ("tool", "tool_name"),
    "arguments": ("arguments", "args"),
    "decisions": ("decisions",),
    "token": ("token", "text"),
    "position": ("position",),
    "finish_reason": ("finish_reason",),
}


def with_prefixes(name: str) -> list[str]:
    """The type of an event as a subject, and as the type of a CloudEvent: `org.example.<name>`."""
    return [name, f"*.{name}", f"*.*.{name}"]


VOCABULARY: Final = (
    MappingSettings(
        types=["STORY_CREATED", *with_prefixes("planning.story.created")], step="story_created"
    ),
    MappingSettings(
        types=["STORY_TRANSITIONED", *with_prefixes("planning.story.transitioned")],
        step="story_moved",
    ),
    MappingSettings(
        types=["DELIBERATION_STARTED", *with_prefixes("orchestration.deliberation.started")],
        step="deliberation_started",
    ),
    MappingSettings(
        types=["DELIBERATION_COMPLETED", *with_prefixes("orchestration.deliberation.completed")],
        step="deliberation_completed",
    ),
    MappingSettings(
        types=["DELIBERATION_FAILED", *with_prefixes("orchestration.deliberation.failed")],
        step="deliberation_failed",
    ),
    MappingSettings(
        types=["PROPOSAL_ADDED", *with_prefixes("orchestration.proposal.added")], step="proposal"
    ),
    MappingSettings(types=["VOTE_CAST", *with_prefixes("orchestration.vote.cast")], step="vote"),
    MappingSettings(
        types=["TASK_DISPATCHED", *with_prefixes("orchestration.task.dispatched")],
        step="task_dispatched",
    ),
    MappingSettings(
        types=["AGENT_RESPONSE_COMPLETED", *with_prefixes("agent.response.completed")],
        step="response",
    ),
    MappingSettings(types=["agent.results.>"], step="response", subject="task"),
    MappingSettings(
        types=["AGENT_RESPONSE_FAILED", *with_prefixes("agent.response.failed")],
        step="response_failed",
    ),
    MappingSettings(types=["vllm_stream_start"], step="generation_started", subject="agent"),
    MappingSettings(types=["vllm_token"], step="token", subject="agent"),
    MappingSettings(types=[GENERATION_PROGRESS], step="token"),
    MappingSettings(types=["vllm_stream_complete"], step="generation_completed", subject="agent"),
    MappingSettings(types=["TOOL_CALLED", *with_prefixes("agent.tool.called")], step="tool_called"),
)
"""What the fleet's events mean, by their types."""


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one event reports. Times are microseconds since the epoch, durations seconds."""

    step: StepName
    time: int
    sequence: int = 0
    story: str = ""
    task: str = ""
    agent: str = ""
    role: str = ""
    members: tuple[str, ...] = ()
    size: int = 0
    winner: str = ""
    """The winner of a deliberation, or the choice of a vote."""
    text: str = ""
    phase: str = ""
    title: str = ""
    duration: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    model: str = ""
    call: str = ""
    """A tool, and a digest of its arguments."""
    decisions: tuple[tuple[str, str], ...] = ()
    """Type and rationale of each decision."""


class Unusable(msgspec.Struct, frozen=True):
    """Why an event reports nothing."""

    reason: str


class Mapper:
    """Reads facts by the configured mappings, then by the built-in vocabulary."""

    def __init__(self, mappings: Sequence[MappingSettings]) -> None:
        rules = [*mappings, *VOCABULARY]
        self.types = tuple(dict.fromkeys(name for rule in rules for name in rule.types))
        self._rules = [(compile_types(rule.types), rule) for rule in rules]
        self._known: dict[str, MappingSettings | None] = {}

    def find_rule(self, kind: str) -> MappingSettings | None:
        """The first mapping for a type of events."""
        if kind not in self._known:
            if len(self._known) >= REMEMBERED_TYPES:
                self._known.clear()
            self._known[kind] = next(
                (rule for types, rule in self._rules if types.fullmatch(kind)), None
            )
        return self._known[kind]

    def read(self, event: Event, time: int, sequence: int) -> Fact | Unusable:
        """The fact that an event reports."""
        rule = self.find_rule(event.type)
        if rule is None:
            return Unusable("no mapping for this type")
        fields = Fields(event, rule)
        step = rule.step
        if step == "token":
            # By far the most frequent step: nothing else of it is used.
            agent, story = fields.name("agent"), fields.name("story")
            fact = Fact(step=step, time=time, sequence=sequence, agent=agent, story=story)
            return fact if agent else Unusable("agent missing")
        if step == "response" and fields.name("status").lower() in ("failed", "error"):
            step = "response_failed"
        fact = Fact(
            step=step,
            time=time,
            sequence=sequence,
            story=fields.name("story"),
            task=fields.name("task"),
            agent=fields.name("agent"),
            role=fields.name("role"),
            members=fields.names("members"),
            size=min(fields.count("size"), 10_000),
            winner=fields.name("choice" if step == "vote" else "winner"),
            text=fields.name("text", MAX_TEXT),
            phase=fields.name("phase"),
            title=fields.name("title"),
            duration=fields.seconds("duration_ms"),
            tokens_in=fields.count("tokens_in"),
            tokens_out=fields.count("tokens_out"),
            model=fields.name("model"),
            call=fields.call() if step == "tool_called" else "",
            decisions=fields.decisions() if step == "deliberation_completed" else (),
        )
        missing = [name for name in required_fields(step) if not getattr(fact, name)]
        return Unusable(f"{' and '.join(missing)} missing") if missing else fact


def compile_types(types: Sequence[str]) -> re.Pattern[str]:
    """One expression for names and patterns."""
    expressions = (compile_pattern(name) for name in types)
    return re.compile(
        "|".join(
            expression.pattern if expression else re.escape(name)
            for name, expression in zip(types, expressions, strict=True)
        ),
        re.DOTALL,
    )


def required_fields(step: StepName) -> Sequence[str]:
    """What a fact is useless without."""
    if step.startswith("story"):
        return ("story", "phase") if step == "story_moved" else ("story",)
    if step.startswith(("generation", "token", "tool")):
        return ("agent",)
    return ("task", "agent") if step in ("proposal", "vote", "response_failed") else ("task",)


class Fields:
    """The fields of a payload, by the paths of a mapping."""

    def __init__(self, event: Event, rule: MappingSettings) -> None:
        self._subject, self._rule = event.subject, rule
        data = event.data if isinstance(event.data, dict) else {}
        inner = [data[name] for name in ENVELOPES if isinstance(data.get(name), dict)]
        self._bodies = [data, *inner]

    def value(self, field: FieldName) -> Any:
        """The value of a field; None without one."""
        path = self._rule.fields.get(field)
        for place in (path,) if path else PATHS[field]:
            for body in self._bodies:
                if (value := follow(body, place)) is not None:
                    return value
        if field == self._rule.subject:
            return self._subject.rpartition(".")[2]
        return None

    def name(self, field: FieldName, limit: int = MAX_NAME) -> str:
        """A field as text that a name can have; empty for anything else."""
        return to_name(self.value(field), limit)

    def names(self, field: FieldName) -> tuple[str, ...]:
        """A list of names, each once."""
        value = self.value(field)
        items = value[:MAX_MEMBERS] if isinstance(value, list) else ()
        return tuple(dict.fromkeys(name for item in items if (name := to_name(item))))

    def decisions(self) -> tuple[tuple[str, str], ...]:
        """Type and rationale of each decision."""
        value = self.value("decisions")
        items = value[:MAX_DECISIONS] if isinstance(value, list) else ()
        return tuple(
            (to_name(item.get("type")), to_name(item.get("rationale"), MAX_TEXT))
            for item in items
            if isinstance(item, dict)
        )

    def text(self, field: FieldName) -> str:
        """A field as it is written; empty for anything but text."""
        value = self.value(field)
        return value if isinstance(value, str) else ""

    def count(self, field: FieldName) -> int:
        """A number from 0 on; 0 for anything else."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return 0
        # Neither infinite nor without a value: it compares, however many digits it has.
        return int(value) if 0 <= value < 2**53 else 0

    def seconds(self, field: FieldName) -> float | None:
        """A number of milliseconds in seconds; None for anything else."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value / 1000 if 0 <= value < 2**53 else None

    def call(self) -> str:
        """The tool that was called, with a digest of the arguments."""
        arguments = msgspec.json.encode(self.value("arguments"), order="deterministic")
        return f"{self.name('tool')}#{blake2b(arguments, digest_size=8).hexdigest()}"


def follow(body: Mapping[str, Any], path: str) -> Any:
    """The value at a path of names with dots between; None where there is no value."""
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def to_name(value: Any, limit: int = MAX_NAME) -> str:
    """Text or an integer as a name without control characters; empty for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 2**63 else ""
    if not isinstance(value, str):
        return ""
    text = value[: limit + 1].strip()
    text = (
        text
        if text.isprintable()
        else "".join(
            character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for character in text
        )
    )
    return text[:limit]
