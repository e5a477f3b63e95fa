"""What the spans of a trace say together: the turns of agents, while they run and after.

Spans arrive when they end, children before their parents, and some when they start. So all of a
trace are stored, and its turns are computed from them: the result does not depend on the order.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.units import SECOND
from almenara_agents.genai import Operation, SpanFact
from almenara_agents.kinds import COMPLETED, FAILED, LOST, RUNNING

MAX_SPANS: Final = 400
"""Facts about a trace that are stored; further ones are left out, and that is marked."""
MAX_TOOLS: Final = 6
DEEPEST: Final = 100


class TraceRecord(msgspec.Struct, omit_defaults=True):
    """The facts about a trace."""

    facts: list[SpanFact] = []
    heard: int = 0
    abandoned: bool = False
    is_truncated: bool = False
    agents: dict[str, str] = {}
    """The agent by turn, as it was derived last."""
    ended: list[str] = []
    """Turns whose end is counted."""
    warned: list[str] = []
    """What was reported about a turn already."""
    closed: bool = False

    def add(self, fact: SpanFact) -> bool:
        """Add a fact; whether it is a new one."""
        if any(each.span == fact.span and each.ended == fact.ended for each in self.facts):
            return False
        if len(self.facts) >= MAX_SPANS:
            self.is_truncated = True
            return False
        self.facts.append(fact)
        self.facts.sort(key=lambda each: (each.time, each.span, each.ended))
        self.heard = max(self.heard, fact.time)
        self.abandoned = False
        return True


class Span(msgspec.Struct):
    """A span, from the facts about its start and its end."""

    id: str
    operation: Operation
    parent: str
    started: int
    ended: int
    fact: SpanFact
    """The fact about its end, if there is one."""

    @property
    def duration(self) -> float:
        return max(self.ended - self.started, 0) / SECOND


class Turn(msgspec.Struct):
    """What one agent does from a request to its result."""

    id: str
    agent: str
    service: str
    status: str = RUNNING
    started: int = 0
    ended: int = 0
    conversation: str = ""
    story: str = ""
    model: str = ""
    doing: str = ""
    """The operation that has started and not ended."""
    step: str = "turn"
    step_since: int = 0
    calls: list[Span] = []
    """Calls of models and tools that have ended, oldest first."""
    tokens_in: int = 0
    tokens_out: int = 0
    reason: str = ""
    problems: list[str] = []

    @property
    def duration(self) -> float | None:
        return (self.ended - self.started) / SECOND if self.ended and self.started else None

    @property
    def tools(self) -> list[str]:
        """The tools that were called last."""
        return [span.fact.tool for span in self.calls if span.operation == "tool"][-MAX_TOOLS:]

    def count(self, operation: Operation) -> int:
        """How many calls of models or of tools have ended."""
        return sum(span.operation == operation for span in self.calls)


def examine(record: TraceRecord) -> list[Turn]:
    """Compute the turns of a trace, by their start."""
    spans = merge_spans(record.facts)
    members: dict[str, list[Span]] = {}
    for span in spans.values():
        turn, relevant = find_turn(span, spans), span.operation != "other"
        if relevant or turn in members:
            members.setdefault(turn, []).append(span)
    turns = [examine_turn(record, key, spans.get(key), own) for key, own in members.items()]
    return sorted(turns, key=lambda turn: (turn.started, turn.id))


def merge_spans(facts: Sequence[SpanFact]) -> dict[str, Span]:
    """Each span once, by its id."""
    spans: dict[str, Span] = {}
    for fact in sorted(facts, key=lambda each: each.ended):
        before = spans.get(fact.span)
        started = fact.started if fact.ended or before is None else before.started
        spans[fact.span] = Span(
            id=fact.span, operation=fact.operation, parent=fact.parent,
            started=started, ended=fact.time if fact.ended else 0, fact=fact,
        )  # fmt: skip
    return spans


def find_turn(span: Span, spans: dict[str, Span]) -> str:
    """The span that is the turn of another: the agent above it or, without one, the topmost."""
    current, key = span, span.id
    for _ in range(DEEPEST):
        if current.operation == "agent":
            return current.id
        if not current.parent:
            return key
        key = current.parent
        if key not in spans:
            return key
        current = spans[key]
    return key


def examine_turn(record: TraceRecord, key: str, root: Span | None, members: list[Span]) -> Turn:
    """Compute a turn from its own span, if it was received, and those below it."""
    own = [span for span in members if span.id != key]
    calls = [span for span in own if span.operation in ("model", "tool") and span.ended]
    if root is not None and root.operation in ("model", "tool"):
        # A call that no agent made.
        own, calls = [root], [root] if root.ended else []
    calls.sort(key=lambda span: (span.ended, span.id))
    known = [*([root] if root is not None else []), *members]

    def first(name: str) -> str:
        return next((text for span in known if (text := str(getattr(span.fact, name)))), "")

    service = first("service")
    turn = Turn(
        id=key, agent=first("agent") or service or "unknown", service=service,
        started=min(span.started for span in known), calls=calls,
        conversation=first("conversation"), story=first("story"),
        model=next((span.fact.model for span in reversed(calls) if span.fact.model), ""),
        tokens_in=sum(span.fact.tokens_in for span in calls),
        tokens_out=sum(span.fact.tokens_out for span in calls),
    )  # fmt: skip
    if root is not None and root.operation == "agent" and not turn.tokens_in + turn.tokens_out:
        turn.tokens_in, turn.tokens_out = root.fact.tokens_in, root.fact.tokens_out
    set_progress(turn, own)
    if root is not None and root.ended:
        turn.ended, turn.doing = root.ended, ""
        turn.status, turn.reason = (FAILED, root.fact.error) if root.fact.error else (COMPLETED, "")
    elif record.abandoned:
        turn.status, turn.ended, turn.reason = LOST, record.heard, "no end was reported"
    if record.is_truncated:
        turn.problems.append(f"more than {MAX_SPANS} spans; later ones are left out")
    return turn


def set_progress(turn: Turn, own: Sequence[Span]) -> None:
    """Set what a turn does now, and since when."""
    turn.step_since = max([turn.started, *(span.ended for span in turn.calls)])
    active = [span for span in own if not span.ended and span.operation != "other"]
    if active:
        span = max(active, key=lambda each: (each.started, each.id))
        turn.step_since = max(turn.step_since, span.started)
        turn.step = span.operation
        name = span.fact.tool if span.operation == "tool" else span.fact.model
        turn.doing = f"{span.operation} {name}".strip()
