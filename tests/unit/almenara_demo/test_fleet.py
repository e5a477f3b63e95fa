"""The simulated fleet publishes on every stream, at its rate, and repeatably."""

import contextlib
import itertools
import json
from collections import Counter
from datetime import UTC, datetime

from almenara_demo.fleet import Fleet
from almenara_demo.nats_load import STREAMS

COUNT = 4_000


def test_fleet_uses_every_stream_and_every_message_format() -> None:
    messages = list(itertools.islice(Fleet(1).messages(50), COUNT))
    prefixes = {subject.rstrip(">*").rstrip(".") for subject in STREAMS.values()}
    assert {
        next(prefix for prefix in prefixes if message.subject.startswith(prefix))
        for message in messages
    } == prefixes
    kinds: Counter[str] = Counter()
    for message in messages:
        try:
            body = json.loads(message.payload)
        except ValueError:
            kinds["not JSON"] += 1
            continue
        if "ce-specversion" in message.headers:
            kinds["binary"] += 1
        elif "specversion" in body:
            kinds["structured"] += 1
        elif "idempotency_key" in body:
            kinds["enveloped"] += 1
        elif "timestamp" not in body:
            kinds["without a time"] += 1
        else:
            kinds["bare"] += 1
    assert set(kinds) == {
        "not JSON", "binary", "structured", "enveloped", "without a time", "bare"
    }  # fmt: skip
    assert any(
        "error_type" in json.loads(message.payload)
        for message in messages
        if message.subject.endswith(".failed")
    )


def test_fleet_that_stops_finishes_what_its_agents_have_begun() -> None:
    ends = {
        "DELIBERATION_STARTED": "DELIBERATION_COMPLETED",
        "vllm_stream_start": "vllm_stream_complete",
    }  # fmt: skip
    unfinished = 0
    for count in range(200, 400, 7):
        fleet = Fleet(count)
        messages = list(itertools.islice(fleet.messages(50), count))
        last = list(fleet.finish())
        unfinished += bool(last)
        kinds: Counter[str] = Counter()
        tasks = 0
        for message in (*messages, *last):
            with contextlib.suppress(ValueError):
                body = json.loads(message.payload)
                kinds[body.get("event_type") or body.get("type") or ""] += 1
                tasks += message.subject == "orchestration.task.dispatched"
                # A proposal has no duration.
                tasks -= message.subject.startswith("agent.") and "duration_ms" in body
        assert [kinds[start] - kinds[end] for start, end in ends.items()] == [0, 0]
        assert tasks == 0
    assert unfinished > 10


def test_fleet_publishes_at_its_rate_on_average() -> None:
    messages = itertools.islice(Fleet(2).messages(50), COUNT)
    seconds = sum(message.wait for message in messages)
    assert 0.9 < seconds * 50 / COUNT < 1.1


def test_seed_repeats_what_happens_but_not_the_ids() -> None:
    def clock() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    first, second = (list(itertools.islice(Fleet(3, clock).messages(9), 500)) for _ in range(2))
    assert [message.wait for message in first] == [message.wait for message in second]
    keys = [
        json.loads(message.payload).get("idempotency_key")
        for message in (*first, *second)
        if b"idempotency_key" in message.payload
    ]
    assert len(keys) == len(set(keys)) > 10
