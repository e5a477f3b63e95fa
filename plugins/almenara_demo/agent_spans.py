"""A simulated agent that exports its spans with OpenTelemetry while it works.

Spans have the names of the GenAI conventions. They are pushed when they start and when they end, so
that turns are displayed while they run. What the model writes is pushed in chunks, as log records.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from almenara_demo.processes import pause

AGENTS: Final = ("release-notes", "triage", "code-search")
MODEL: Final = "qwen-coder-32b"
TOOLS: Final = ("search_code", "read_file", "run_tests", "open_pull_request", "list_issues")
AGENT, MODEL_CALL, TOOL_CALL = "invoke_agent", "chat", "execute_tool"
LOOP_CHANCE: Final = 0.08
FAIL_CHANCE: Final = 0.08
PAUSE: Final = (1.0, 6.0)
"""Seconds between two turns of an agent, at least and at most."""
TIMEOUT: Final = 5.0

ANSWER: Final = (
    "I will read the failing test first, then the module that it covers, and change as little as"
    " possible before running the suite again."
)
Push = Callable[[str, bytes], Awaitable[object]]
"""Sends a request to `logs` or `traces`."""


class Span(msgspec.Struct):
    """A span that an agent has started."""

    name: str
    trace: str
    parent: str
    attributes: dict[str, Any]
    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    started: int = msgspec.field(default_factory=time.time_ns)

    def export(self, service: str, ended: int = 0, error: str = "") -> bytes:
        """The span in the JSON of OTLP; without an end it has started."""
        span: dict[str, Any] = {
            "traceId": self.trace, "spanId": self.id, "parentSpanId": self.parent,
            "name": self.name, "kind": 1, "startTimeUnixNano": str(self.started),
            "endTimeUnixNano": str(ended), "attributes": write_attributes(self.attributes),
            "status": {"code": 2, "message": error} if error else {},
        }  # fmt: skip
        resource = {"attributes": write_attributes({"service.name": service})}
        scopes = [{"scope": {"name": "almenara-demo"}, "spans": [span]}]
        return msgspec.json.encode(
            {"resourceSpans": [{"resource": resource, "scopeSpans": scopes}]}
        )

    def write_chunk(self, service: str, index: int, text: str) -> bytes:
        """A piece of what the model writes within the span, as a log record in the JSON of OTLP."""
        record: dict[str, Any] = {
            "timeUnixNano": str(time.time_ns()), "traceId": self.trace, "spanId": self.id,
            "eventName": "gen_ai.output.chunk", "body": {"stringValue": text},
            "attributes": write_attributes({"gen_ai.chunk.index": index}),
        }  # fmt: skip
        resource = {"attributes": write_attributes({"service.name": service})}
        scopes = [{"scope": {"name": "almenara-demo"}, "logRecords": [record]}]
        return msgspec.json.encode({"resourceLogs": [{"resource": resource, "scopeLogs": scopes}]})


def write_attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Attributes in the JSON of OTLP."""
    return [
        {"key": key, "value": {"intValue" if isinstance(value, int) else "stringValue": value}}
        for key, value in attributes.items()
    ]


class Call(msgspec.Struct):
    """A call of a model or a tool within a turn."""

    operation: str
    attributes: dict[str, Any]
    seconds: float
    error: str = ""


def plan_turn(chance: random.Random) -> Iterator[Call]:
    """Yield the calls of a turn: the model decides, a tool answers, until the model is done. Some
    turns call the same tool over and over, and some fail."""
    context = chance.randrange(800, 3_000)
    is_looping = chance.random() < LOOP_CHANCE
    for number in range(chance.randrange(6, 9) if is_looping else chance.randrange(2, 5)):
        tool = TOOLS[0] if is_looping else chance.choice(TOOLS)
        output = chance.randrange(40, 400)
        yield Call(
            MODEL_CALL,
            {
                "gen_ai.request.model": MODEL, "gen_ai.provider.name": "vllm",
                "gen_ai.usage.input_tokens": context, "gen_ai.usage.output_tokens": output,
            },
            chance.uniform(0.8, 3.0),
        )  # fmt: skip
        arguments = "same" if is_looping else f"{tool} {number} {chance.random()}"
        error = "exit status 1" if chance.random() < FAIL_CHANCE else ""
        attributes = {"gen_ai.tool.name": tool, "gen_ai.tool.call.arguments": arguments}
        yield Call(TOOL_CALL, attributes, chance.uniform(0.3, 2.5), error)
        context += output + chance.randrange(200, 2_000)


async def run_agents(push: Push, seed: int, stopping: asyncio.Event) -> None:
    """Run all agents until the demo is stopping, and their turns have ended."""
    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(AGENTS):
            group.create_task(run_agent(push, name, random.Random(seed + number), stopping))  # nosec B311 # simulates agents


async def run_agent(push: Push, name: str, chance: random.Random, stopping: asyncio.Event) -> None:
    """Run one agent, turn after turn, until the demo is stopping. The last turn ends with the call
    that it makes then."""
    while not await pause(chance.uniform(*PAUSE), stopping):
        trace, conversation = secrets.token_hex(16), f"conversation-{secrets.token_hex(3)}"
        identity = {"gen_ai.agent.name": name, "gen_ai.conversation.id": conversation}
        turn = Span(
            f"{AGENT} {name}", trace, "", {"gen_ai.operation.name": AGENT, **identity}
        )  # fmt: skip
        await push("traces", turn.export("assistants"))
        for call in plan_turn(chance):
            if stopping.is_set():
                break
            attributes = {"gen_ai.operation.name": call.operation, **identity, **call.attributes}
            span = Span(call.operation, trace, turn.id, attributes)
            await push("traces", span.export("assistants"))
            if call.operation == MODEL_CALL:
                await write_text(push, span, call.seconds, stopping)
            else:
                await pause(call.seconds, stopping)
            await push("traces", span.export("assistants", time.time_ns(), call.error))
        error = "no answer after three tries" if chance.random() < FAIL_CHANCE else ""
        await push("traces", turn.export("assistants", time.time_ns(), error))


async def write_text(push: Push, span: Span, seconds: float, stopping: asyncio.Event) -> None:
    """Push what the model writes within a span, word by word, until the demo is stopping."""
    words = ANSWER.split()
    for index, word in enumerate(words):
        await push("logs", span.write_chunk("assistants", index, f"{word} "))
        if await pause(seconds / len(words), stopping):
            return


async def push_spans(address: str, token: str, seed: int, stopping: asyncio.Event) -> None:
    """Push the spans of all agents to the intake of a running Almenara until the demo is stopping,
    and their turns have ended."""
    # An optional library, which the demo of Ray needs as well.
    import httpx

    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=TIMEOUT) as client:

        async def push(kind: str, body: bytes) -> None:
            try:
                await client.post(f"/intake/otlp/v1/{kind}", content=body)
            except httpx.TransportError:
                # As an exporter does: the span is lost, and the agent goes on.
                return

        await run_agents(push, seed, stopping)
