"""Simulated agents that export spans."""

import asyncio
import json

import pytest

from almenara_demo.agent_spans import run_agents

pytestmark = pytest.mark.anyio


async def test_agents_end_their_turns_when_the_demo_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("almenara_demo.agent_spans.PAUSE", (0.0, 0.01))
    stopping, started, ended = asyncio.Event(), set(), set()

    async def push(kind: str, body: bytes) -> None:
        if kind == "logs":
            # A model writes within its call within a turn.
            stopping.set()
            return
        (resource,) = json.loads(body)["resourceSpans"]
        (span,) = resource["scopeSpans"][0]["spans"]
        (started if span["endTimeUnixNano"] == "0" else ended).add(span["spanId"])

    async with asyncio.timeout(10):
        await run_agents(push, 1, stopping)
    assert started == ended
    assert len(started) >= 2
