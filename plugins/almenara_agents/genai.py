"""Reads spans of language models, agents and tools: the GenAI conventions of OpenTelemetry.

https://github.com/open-telemetry/semantic-conventions-genai. Names that earlier versions and
OpenInference use are read as well. Everything in a span is hostile input.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from almenara.signals import Event, Severity
from almenara_agents.mapping import MAX_TEXT, to_name

STARTED_TYPE: Final = "otel.span.started"
ENDED_TYPE: Final = "otel.span"
SPAN_TYPES: Final = (STARTED_TYPE, ENDED_TYPE)
LOG_TYPE: Final = "otel.log"

Operation = Literal["agent", "model", "tool", "other"]

OPERATIONS: Final[Mapping[str, Operation]] = {
    "invoke_agent": "agent",
    "invoke_workflow": "agent",
    "create_agent": "other",
    "chat": "model",
    "text_completion": "model",
    "generate_content": "model",
    "embeddings": "model",
    "execute_tool": "tool",
    # OpenInference
    "AGENT": "agent",
    "LLM": "model",
    "EMBEDDING": "model",
    "TOOL": "tool",
}
NAMES: Final[Mapping[str, Sequence[str]]] = {
    "operation": ("gen_ai.operation.name", "openinference.span.kind"),
    "agent": ("gen_ai.agent.name", "gen_ai.agent.id", "agent.name"),
    "conversation": ("gen_ai.conversation.id", "session.id", "gen_ai.thread.id"),
    "model": ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name"),
    "tokens_in": (
        "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt",
    ),
    "tokens_out": (
        "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "finish": ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason"),
    "tool": ("gen_ai.tool.name", "tool.name"),
    "arguments": ("gen_ai.tool.call.arguments", "tool.parameters"),
    "error": ("error.type",),
    "story": ("story_id", "gen_ai.task.id"),
}  # fmt: skip
"""Attributes by what they are, the present name first."""
CONTENT: Final = frozenset(
    (
        "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions",
        "gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions",
        "gen_ai.prompt", "gen_ai.completion", "gen_ai.retrieval.documents",
        "gen_ai.retrieval.query.text", "input.value", "output.value", "tool.parameters",
    )
)  # fmt: skip
"""Attributes with prompts and completions."""
CONTENT_PREFIXES: Final = (
    "gen_ai.prompt.", "gen_ai.completion.", "llm.input_messages.", "llm.output_messages.",
)  # fmt: skip
REFUSALS: Final = frozenset(("content_filter", "refusal", "safety", "blocked"))
MAX_REASONS: Final = 10


class SpanFact(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one event about a span reports. Times are microseconds since the epoch."""

    operation: Operation
    span: str
    time: int
    ended: bool = False
    parent: str = ""
    started: int = 0
    agent: str = ""
    service: str = ""
    conversation: str = ""
    story: str = ""
    model: str = ""
    tool: str = ""
    call: str = ""
    """A tool with a digest of its arguments, where these were sent."""
    tokens_in: int = 0
    tokens_out: int = 0
    is_refused: bool = False
    error: str = ""
    """Why the span failed; empty where it did not."""


def read_span(event: Event, time: int) -> SpanFact | None:
    """The fact that an event about a span reports; None for anything else."""
    data = event.data if isinstance(event.data, dict) else {}
    attributes = data.get("attributes")
    span = to_name(data.get("span_id"))
    if event.type not in SPAN_TYPES or not span or not isinstance(attributes, dict):
        return None

    def value(name: str) -> Any:
        return next((value for key in NAMES[name] if (value := attributes.get(key))), None)

    resource = data.get("resource")
    service = resource.get("service.name") if isinstance(resource, dict) else ""
    operation = OPERATIONS.get(str(value("operation")), "other")
    tool = to_name(value("tool"))
    started = data.get("started")
    is_failed = event.severity >= Severity.ERROR
    return SpanFact(
        operation=operation,
        span=span,
        time=time,
        ended=event.type == ENDED_TYPE,
        parent=to_name(data.get("parent_span_id")),
        started=started if isinstance(started, int) and 0 < started <= time else time,
        agent=to_name(value("agent")),
        service=to_name(service),
        conversation=to_name(value("conversation")),
        story=to_name(value("story")),
        model=to_name(value("model")),
        tool=tool,
        call=_digest_call(tool, value("arguments")),
        tokens_in=_count(value("tokens_in")),
        tokens_out=_count(value("tokens_out")),
        is_refused=not REFUSALS.isdisjoint(_reasons(value("finish"))),
        error=_describe_error(data, value("error")) if is_failed else "",
    )


def _describe_error(data: Mapping[str, Any], error: Any) -> str:
    return to_name(data.get("status_message"), MAX_TEXT) or to_name(error, MAX_TEXT) or "it failed"


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 0 <= value < 2**53 else 0


def _reasons(value: Any) -> list[str]:
    items = value[:MAX_REASONS] if isinstance(value, list) else [value]
    return [item.lower() for item in items if isinstance(item, str)]


def _digest_call(tool: str, arguments: Any) -> str:
    if not tool or arguments is None:
        return ""
    text = msgspec.json.encode(arguments, order="deterministic")
    return f"{tool}#{blake2b(text, digest_size=8).hexdigest()}"


def hide_content(event: Event, key: bytes) -> Event:
    """Return a span or log record without its prompts and completions; what was there is a keyed
    digest, so that equal ones are recognized."""
    data = event.data if isinstance(event.data, dict) else {}
    changed = dict(data)
    if isinstance(attributes := data.get("attributes"), dict):
        changed["attributes"] = _hide(attributes, key)
    if isinstance(events := data.get("events"), list):
        changed["events"] = [
            {**each, "attributes": _hide(each["attributes"], key)}
            if isinstance(each, dict) and isinstance(each.get("attributes"), dict)
            else each
            for each in events
        ]
    if event.type == LOG_TYPE and event.subject.startswith("gen_ai.") and data.get("body"):
        changed["body"] = _mask(data["body"], key)
    return event if changed == data else msgspec.structs.replace(event, data=changed)


def _hide(attributes: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    return {
        name: _mask(value, key) if name in CONTENT or name.startswith(CONTENT_PREFIXES) else value
        for name, value in attributes.items()
    }


def _mask(value: Any, key: bytes) -> str:
    text = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    digest = blake2b(text, digest_size=8, key=key).hexdigest()
    return f"hidden: {len(text)} bytes, {digest}"
