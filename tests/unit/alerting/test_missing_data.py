"""Alerts about resources that their sources cannot read for a time."""

import msgspec
import pytest

from almenara.alerting.rules import compile_rules
from almenara.sdk import mark_unknown
from almenara.signals import Resource, Severity
from almenara_nats.alert_rules import LINKS, RULES
from support.alerting import START, AlertRun, Evaluation, pod, read_alerting, source

BROKEN = "rules: [{name: broken, when: {resource: {kind: pod, CONDITION}}}]"


def nats_run() -> Evaluation:
    return Evaluation(compile_rules(read_alerting("{}"), {"nats": RULES}, LINKS))


def consumer(status: str) -> Resource:
    return Resource(
        kind="nats.consumer", namespace="ORDERS", name="billing", status=status, origin="nats",
        severity=Severity.WARN if status == "stalled" else Severity.INFO, time=START,
    )  # fmt: skip


def unread(resource: Resource, status: str = "unknown", severity: str = "WARN") -> Resource:
    lost = mark_unknown(resource, "no server answers", START, status=status)
    return msgspec.structs.replace(lost, severity=Severity[severity])


def crashing(**fields: object) -> Resource:
    return pod("db", "CrashLoopBackOff", **fields)  # type: ignore[arg-type]


def test_alert_is_unknown_while_its_resource_is_not_observed() -> None:
    run = nats_run()
    stalled = consumer("stalled")
    run.feed_now(stalled)
    run.advance(61)
    assert run.statuses == ["pending", "firing"]
    run.feed_now(unread(stalled))
    assert run.statuses == ["pending", "firing", "unknown"]
    assert run.alert_events[-1].data["value"] == "stalled"  # type: ignore[index]
    # That the source runs again does not prove anything about the resource.
    run.feed_now(source("nats", "degraded"), source("nats", "running"))
    run.advance(7200)
    run.restart()
    assert run.alerts == {"nats-consumer-stalled billing": "unknown"}
    run.feed_now(stalled)
    assert run.alerts == {"nats-consumer-stalled billing": "firing"}
    run.feed_now(unread(stalled), consumer("ok"))
    assert run.statuses == ["pending", "firing", "unknown", "firing", "unknown", "resolved"]


def test_unknown_alert_resolves_when_its_resource_is_deleted() -> None:
    run = nats_run()
    run.feed_now(consumer("stalled"))
    run.advance(61)
    run.feed_now(unread(consumer("stalled")))
    run.feed_now(msgspec.structs.replace(consumer(""), deleted=True))
    assert run.statuses == ["pending", "firing", "unknown", "resolved"]


def test_pending_alert_of_a_resource_that_is_not_observed_becomes_unknown() -> None:
    run = nats_run()
    run.feed_now(consumer("stalled"))
    run.advance(30)
    run.feed_now(unread(consumer("stalled")))
    assert run.statuses == ["pending"]
    # Only a status that is firing notifies anyone.
    run.advance(31)
    assert run.statuses == ["pending", "unknown"]
    run.feed_now(consumer("ok"))
    assert run.statuses == ["pending", "unknown", "resolved"]


def test_pending_alert_whose_resource_is_fine_again_never_fires() -> None:
    run = nats_run()
    run.feed_now(consumer("stalled"))
    run.feed_now(unread(consumer("stalled")), consumer("ok"))
    run.advance(100)
    assert (run.statuses, run.alerts) == (["pending"], {})


def test_resource_that_is_not_observed_raises_no_alert() -> None:
    run = AlertRun(BROKEN.replace("CONDITION", "field: restarts, above: 3"))
    run.feed_now(unread(pod("db", state={"restarts": 5})))
    run.advance(600)
    assert run.statuses == []


def test_status_that_a_rule_selects_holds_although_its_state_is_stale() -> None:
    run = nats_run()
    stream = Resource(kind="nats.stream", name="ORDERS", status="ok", origin="nats", time=START)
    run.feed_now(unread(stream, "offline", "ERROR"))
    run.advance(61)
    assert run.statuses == ["pending", "firing"]
    run.feed_now(unread(stream))
    assert run.statuses == ["pending", "firing", "unknown"]
    run.feed_now(stream)
    assert run.statuses[-1] == "resolved"


@pytest.mark.parametrize(
    ("condition", "statuses"),
    [
        ("status: [unknown, CrashLoop*]", ["firing"]),
        ("severity: WARN", ["firing"]),
        ("severity: ERROR", ["firing", "unknown"]),
        ("field: restarts, above: 3", ["firing", "unknown"]),
        ("severity: WARN, field: restarts, above: 3", ["firing", "unknown"]),
        ("status: [unknown, CrashLoop*], field: restarts, above: 3", ["firing"]),
    ],
)
def test_rule_that_selects_the_unknown_status_keeps_firing(
    condition: str, statuses: list[str]
) -> None:
    run = AlertRun(BROKEN.replace("CONDITION", condition))
    resource = crashing(state={"restarts": 5})
    run.feed_now(resource, unread(resource))
    assert run.statuses == statuses


def test_flapping_alert_that_is_not_observed_does_not_settle_as_resolved() -> None:
    run = AlertRun(BROKEN.replace("CONDITION", "status: [CrashLoop*]"))
    for _ in range(4):
        run.feed_now(pod("db"), crashing())
    assert run.statuses[-1] == "flapping"
    run.feed_now(unread(crashing()))
    run.advance(700)
    assert run.alerts == {"broken db": "unknown"}
    run.feed_now(pod("db"))
    assert run.alerts == {"broken db": "resolved"}


def test_alert_that_is_kept_firing_after_its_end_resolves_while_it_is_not_observed() -> None:
    rules = BROKEN.replace("CONDITION}}}", "status: [CrashLoop*]}}, keep_firing_for: 60}")
    run = AlertRun(rules)
    run.feed_now(crashing(), pod("db"), unread(pod("db")))
    assert run.statuses == ["firing"]
    run.advance(61)
    assert run.statuses == ["firing", "resolved"]
