import itertools
import json
from collections import Counter
from datetime import UTC, datetime

from almenara_demo.command import STREAMS
from almenara_demo.fleet import Fleet

COUNT = 4_000


def test_the_fleet_speaks_on_every_stream_in_all_three_generations() -> None:
    messages = list(itertools.islice(Fleet(1).messages(50), COUNT))
    prefixes = {subject.rstrip(">*").rstrip(".") for subject in STREAMS.values()}
    assert {next(it for it in prefixes if m.subject.startswith(it)) for m in messages} == prefixes
    kinds: Counter[str] = Counter()
    for message in messages:
        try:
            body = json.loads(message.payload)
        except ValueError:
            kinds["no JSON"] += 1
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
        "no JSON", "binary", "structured", "enveloped", "without a time", "bare"
    }  # fmt: skip
    assert any(
        "error_type" in json.loads(m.payload) for m in messages if m.subject.endswith(".failed")
    )


def test_the_rate_is_kept_on_average() -> None:
    messages = itertools.islice(Fleet(2).messages(50), COUNT)
    seconds = sum(it.wait for it in messages)
    assert 0.9 < seconds * 50 / COUNT < 1.1


def test_a_seed_settles_what_happens_but_never_the_ids() -> None:
    def clock() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    first, second = (list(itertools.islice(Fleet(3, clock).messages(9), 500)) for _ in range(2))
    assert [it.wait for it in first] == [it.wait for it in second]
    keys = [
        json.loads(it.payload).get("idempotency_key")
        for it in (*first, *second)
        if b"idempotency_key" in it.payload
    ]
    assert len(keys) == len(set(keys)) > 10
