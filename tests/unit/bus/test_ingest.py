"""Rules of ingest: which events are stored, and that the others are counted."""

from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.ingest import IngestRules
from almenara.config import EventMatch, IngestRule, StorageSettings
from almenara.history import Filter, History
from almenara.scope import ACCESS_LOG
from almenara.signals import Sample, Severity
from support.bus import make_event

TOKENS = EventMatch(type="vllm.*")


def test_accepts_stores_a_share_chosen_by_id() -> None:
    rules = IngestRules([IngestRule(match=TOKENS, keep=0.25)])
    events = [make_event(number, type="vllm.token") for number in range(4_000)]
    stored = [event for event in events if rules.accepts(event)]
    assert 800 < len(stored) < 1_200
    again = [make_event(number, type="vllm.token", time=7) for number in range(4_000)]
    assert [event.id for event in again if rules.accepts(event)] == [event.id for event in stored]


@pytest.mark.parametrize(("keep", "is_accepted"), [(0, False), (1, True)])
def test_accepts_stores_none_or_all(keep: float, is_accepted: bool) -> None:
    rules = IngestRules([IngestRule(match=TOKENS, keep=keep)])
    assert {rules.accepts(make_event(each, type="vllm.token")) for each in range(200)} == {
        is_accepted
    }
    assert all(rules.accepts(make_event(each, type="plan.approved")) for each in range(200))


def test_accepts_follows_the_first_rule_that_matches() -> None:
    rules = IngestRules(
        [
            IngestRule(match=EventMatch(type="vllm.usage"), keep=1),
            IngestRule(
                match=EventMatch(origin="nats/>", type="vllm.*", severity_below="ERROR"), keep=0
            ),
        ]
    )
    assert rules.accepts(make_event(1, origin="nats/S", type="vllm.usage"))
    assert not rules.accepts(make_event(1, origin="nats/S", type="vllm.token"))
    assert rules.accepts(make_event(1, origin="ray", type="vllm.token"))
    assert rules.accepts(make_event(1, origin="nats/S", type="vllm.token", severity=Severity.ERROR))


def test_accepts_stores_the_access_log_whole() -> None:
    rules = IngestRules([IngestRule(match=EventMatch(type=">"), keep=0)])
    assert rules.accepts(make_event(1, origin=ACCESS_LOG))
    assert not rules.accepts(make_event(1, origin="nats/S"))


@pytest.mark.anyio
async def test_left_out_events_are_counted_by_source(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, ingest_rules=[IngestRule(match=TOKENS, keep=0)])
    async with EmbeddedBus(settings) as bus:
        tokens = [make_event(each, type="vllm.token") for each in range(5)]
        await bus.publish(tokens, "nats")
        await bus.publish(
            [*tokens, make_event(9), Sample(kind="k", name="n", metric="m", value=1)], "ray"
        )
        assert bus.counters.left_out == {"nats": 5, "ray": 5}
        assert bus.last_sequence == 2
        assert await History(bus).count(Filter()) == 1
