"""Texts of language models that arrive as log records of OpenTelemetry, one for each chunk.

The conventions have no name for them yet. Read are records whose event name begins with `gen_ai.`
or `llm.` and ends in chunk, delta or token: `gen_ai.output.chunk`, `llm.content.completion.chunk`.
Records of the same span are one text. Everything in a record is hostile input.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.signals import Event, Severity
from almenara.units import SECOND
from almenara_agents.genai import ENDED_TYPE, NAMES, read_span
from almenara_agents.kinds import GENERATION_ENDED, GENERATION_PROGRESS
from almenara_agents.mapping import to_name
from almenara_agents.writings import UNKNOWN, Writing

CHUNK_NAME: Final = re.compile(r"(gen_ai|llm)\.([a-z_][a-z_.]*[._])?(chunk|delta|token)")
"""Without a repetition within another: an underscore in both would take exponential time."""
MAX_TEXTS: Final = 2_000
MAX_SPANS: Final = 10_000
PROGRESS_INTERVAL: Final = 15 * SECOND
"""Microseconds between two stored signs of life of a text."""
CONTENT: Final = (
    "gen_ai.output.chunk", "gen_ai.chunk.content", "gen_ai.completion.chunk", "gen_ai.content",
    "gen_ai.token", "content", "text", "delta", "token",
)  # fmt: skip
"""Attributes and fields of a body that have the text, in order of preference."""
INDEX: Final = ("gen_ai.chunk.index", "gen_ai.token.index", "index", "position")
MAX_INDEX: Final = 2**31


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a text."""

    trace: str
    span: str
    text: str
    position: int
    """Its place in the text; `UNKNOWN` where it is not reported."""
    finish_reason: str
    agent: str
    story: str
    model: str
    service: str


class SpanTexts:
    """The texts by the span in which they are written."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, Writing] = OrderedDict()
        self._agents: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """The agent of a span, and when it started where that was reported."""

    def texts(self) -> Iterable[tuple[str, Writing]]:
        """Each text with its span; the one that was written to last is last."""
        return list(self._texts.items())

    def add(self, chunk: Chunk, event: Event) -> tuple[Writing | None, Sequence[Event]]:
        """Add a chunk: the text that has changed, and what is stored in place of the chunk."""
        agent, started = self._agents.get(chunk.span, ("", 0))
        agent = chunk.agent or agent or chunk.service
        writing = self._texts.get(chunk.span)
        if writing is not None and writing.ended:
            # The source publishes again what was not stored.
            is_end = event.id == writing.end_id
            return None, [self._end(chunk.span, writing, event)] if is_end else []
        if not agent:
            return None, []
        if writing is None:
            writing = self._texts[chunk.span] = Writing(agent, event)
            writing.started = started
            # Without positions, nothing shows whether chunks are missing.
            writing.has_gap = chunk.position == UNKNOWN
            if chunk.position in (UNKNOWN, 0):
                writing.start_id = event.id
            if len(self._texts) > MAX_TEXTS:
                self._texts.popitem(last=False)
        if chunk.position == 0:
            writing.start_id = writing.start_id or event.id
        writing.trace = chunk.trace
        writing.story = chunk.story or writing.story
        writing.model = chunk.model or writing.model
        writing.finish_reason = chunk.finish_reason or writing.finish_reason
        if chunk.text and not writing.add(event, chunk.text, chunk.position):
            return None, []
        self._texts.move_to_end(chunk.span)
        if chunk.finish_reason:
            writing.end_id = event.id
            return writing, [self._end(chunk.span, writing, event)]
        if event.time < max(writing.reported, writing.first) + PROGRESS_INTERVAL:
            return writing, []
        writing.reported = event.time
        data = {"agent_id": writing.agent, "story_id": writing.story, "tokens": writing.tokens}
        return writing, [_derive(event, f"progress/{event.id}", GENERATION_PROGRESS, data)]

    def follow_span(self, event: Event) -> Sequence[Event]:
        """Note the agent of a span; the summary of its text where it has ended."""
        fact = read_span(event, event.time)
        if fact is None:
            return []
        parent, _ = self._agents.get(fact.parent, ("", 0))
        agent = fact.agent or parent
        self._agents[fact.span] = agent, fact.started
        self._agents.move_to_end(fact.span)
        if len(self._agents) > MAX_SPANS:
            self._agents.popitem(last=False)
        writing = self._texts.get(fact.span)
        if writing is None or event.type != ENDED_TYPE:
            return []
        if writing.ended and writing.end_id != event.id:
            return []
        writing.end_id, writing.started = event.id, fact.started
        writing.model = writing.model or fact.model
        return [self._end(fact.span, writing, event)]

    def _end(self, span: str, writing: Writing, event: Event) -> Event:
        writing.ended = event.time
        data = {
            "agent_id": writing.agent, "story_id": writing.story, "model": writing.model,
            "span_id": span, "generation": writing.summarize(0),
        }  # fmt: skip
        return _derive(
            event, f"generation/{writing.trace}/{span}", GENERATION_ENDED,
            {name: value for name, value in data.items() if value},
        )  # fmt: skip


def read_chunk(event: Event) -> Chunk | None:
    """The chunk that a log record is; None for anything else."""
    data = event.data if isinstance(event.data, dict) else {}
    name = data.get("event_name") or event.subject
    if not isinstance(name, str) or CHUNK_NAME.fullmatch(name) is None:
        return None
    trace, span = _find_span(event)
    if not span:
        return None
    attributes = _mapping(data.get("attributes"))
    body = data.get("body")
    fields = {**_mapping(body), **attributes}
    written = body if isinstance(body, str) else _find_text(fields)

    def find_name(field: str) -> str:
        return next((text for key in NAMES[field] if (text := to_name(fields.get(key)))), "")

    reasons = next((value for key in NAMES["finish"] if (value := fields.get(key))), None)
    reason = reasons[0] if isinstance(reasons, list) and reasons else reasons
    return Chunk(
        trace=trace,
        span=span,
        text=written,
        position=_find_position(fields),
        finish_reason=to_name(reason or fields.get("finish_reason")),
        agent=find_name("agent"),
        story=find_name("story"),
        model=find_name("model"),
        service=to_name(_mapping(data.get("resource")).get("service.name")),
    )


def _find_span(event: Event) -> tuple[str, str]:
    parts = str(event.attributes.get("traceparent", "")).split("-")
    return (parts[1], parts[2]) if len(parts) == 4 else ("", "")


def _find_text(fields: Mapping[str, Any]) -> str:
    for key in CONTENT:
        value = fields.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            return value
    return ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _find_position(fields: Mapping[str, Any]) -> int:
    for key in INDEX:
        value = fields.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_INDEX:
            return value
    return UNKNOWN


def _derive(event: Event, identity: str, kind: str, data: Mapping[str, Any]) -> Event:
    return msgspec.structs.replace(
        event, id=identity, type=kind, subject=data["agent_id"], severity=Severity.INFO,
        data=dict(data), raw=None, deduplication_key="",
    )  # fmt: skip
