"""Silences, acknowledgement and inhibition."""

from typing import Any

import pytest

from almenara.alerting.commands import (
    make_acknowledge,
    make_silence,
    make_unacknowledge,
    make_unsilence,
)
from almenara.hookspecs import ResourceLink
from almenara.signals import Resource, Severity
from support.alerting import START, AlertRun, pod, source

RULES = """
rules:
- {name: crashing, when: {resource: {kind: pod, status: [CrashLoop*]}}}
- {name: node-down, when: {resource: {kind: node, status: [NotReady]}}, severity: ERROR}
- {name: source-blind, when: {resource: {kind: almenara.source, status: [degraded]}}}
"""
LINKS = (ResourceLink(kind="pod", parent="node", name="node"),)
HOUR = 3_600_000_000


def crash(name: str = "db", node: str = "n1") -> Resource:
    return pod(name, "CrashLoopBackOff", state={"node": node})


def node(status: str, name: str = "n1") -> Resource:
    return Resource(
        kind="node", name=name, status=status, origin="kube", severity=Severity.ERROR, time=START
    )


def test_acknowledged_alert_stays_so_until_it_resolves() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    run.command(make_acknowledge, run.key("crashing"), "ada", "looking")
    assert run.statuses == ["firing", "acknowledged"]
    assert run.alert_events[-1].data is not None
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert (alert.state["by"], alert.state["comment"]) == ("ada", "looking")
    run.feed_now(crash())
    run.feed_now(pod("db"))
    run.feed_now(crash())
    assert run.statuses == ["firing", "acknowledged", "resolved", "firing"]
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert "by" not in alert.state


def test_acknowledgement_can_be_taken_back() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    run.command(make_acknowledge, run.key("crashing"), "ada")
    run.command(make_unacknowledge, run.key("crashing"), "ada")
    assert run.statuses == ["firing", "acknowledged", "firing"]


def test_silence_covers_matching_alerts_until_it_ends() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash("db"), crash("web"))
    ends = run.clock.now() + HOUR
    run.command(make_silence, ['name=~"d.*"', "rule=crashing"], "ada", "upgrade", ends)
    assert run.alerts == {"crashing db": "silenced", "crashing web": "firing"}
    (silence,) = [each for each in run.resources.values() if each.kind == "almenara.silence"]
    assert (silence.status, silence.state["author"]) == ("active", "ada")
    run.advance(3601)
    assert run.alerts == {"crashing db": "firing", "crashing web": "firing"}
    assert not [each for each in run.resources.values() if each.kind == "almenara.silence"]


def test_signals_that_come_late_undo_no_silence() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    run.advance(60)
    run.command(make_silence, ["rule=crashing"], "ada", "upgrade", run.clock.now() + HOUR)
    # Observed before the silence, and published after it.
    run.feed(crash())
    assert run.alerts == {"crashing db": "silenced"}
    run.restart()
    run.feed(crash())
    assert run.statuses == ["firing", "silenced"]
    run.advance(3601)
    run.feed(crash())
    assert run.alerts == {"crashing db": "firing"}


def test_silence_covers_alerts_that_fire_later_and_can_be_ended() -> None:
    run = AlertRun(RULES)
    run.command(make_silence, ["namespace=prod"], "ada", "upgrade", run.clock.now() + HOUR)
    run.feed_now(crash())
    assert run.statuses == ["silenced"]
    (silence,) = [each for each in run.resources.values() if each.kind == "almenara.silence"]
    run.command(make_unsilence, silence.name, "ada")
    assert run.statuses == ["silenced", "firing"]


def test_silence_of_the_future_begins_at_its_time() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    now = run.clock.now()
    run.command(make_silence, ["rule=crashing"], "ada", "x", now + 2 * HOUR, now + HOUR)
    assert run.statuses == ["firing"]
    run.advance(3601)
    assert run.statuses == ["firing", "silenced"]
    run.advance(3600)
    assert run.statuses == ["firing", "silenced", "firing"]


@pytest.mark.parametrize(
    ("matchers", "comment", "ends", "error"),
    [
        ([], "x", 1, "at least one matcher"),
        (["no"], "x", 1, "'no' is not a matcher"),
        (['a=~"(x+)+"'], "x", 1, "not allowed in a silence"),
        (['a=~".*.*.*.*.*"'], "x", 1, "not allowed in a silence"),
        (["a=b"], " ", 1, "needs a comment"),
        (["a=b"], "x", -1, "must end after it starts"),
    ],
)
def test_wrong_silence_is_refused(matchers: list[str], comment: str, ends: int, error: str) -> None:
    run = AlertRun(RULES)
    with pytest.raises(ValueError, match=error):
        run.command(make_silence, matchers, "ada", comment, run.clock.now() + ends * HOUR)


def test_alert_is_inhibited_by_that_of_the_resource_it_depends_on() -> None:
    run = AlertRun(RULES, LINKS)
    run.feed_now(crash("db", "n1"), crash("web", "n2"))
    run.feed_now(node("NotReady"))
    assert run.alerts == {
        "crashing db": "inhibited", "crashing web": "firing", "node-down n1": "firing",
    }  # fmt: skip
    db = next(each for each in run.resources.values() if each.state.get("inhibited_by"))
    assert db.state["inhibited_by"] == run.key("node-down")
    run.feed_now(node("Ready"))
    assert run.alerts["crashing db"] == "firing"


def test_alert_that_fires_after_its_root_is_inhibited_from_the_start() -> None:
    run = AlertRun(RULES, LINKS)
    run.feed_now(node("NotReady"))
    run.feed_now(crash("db", "n1"))
    assert run.statuses == ["firing", "inhibited"]


def test_node_of_another_cluster_inhibits_nothing() -> None:
    run = AlertRun(RULES, LINKS)
    run.feed_now(crash(), node("NotReady"))
    other = pod("db", "CrashLoopBackOff", origin="kube2", state={"node": "n1"})
    run.feed_now(other)
    assert run.statuses[-1] == "firing"


def test_alert_of_a_source_inhibits_those_of_what_it_observes() -> None:
    run = AlertRun(RULES + "source_grace: 1000")
    run.feed_now(crash(), source("kube", "degraded"))
    assert run.alerts == {"crashing db": "inhibited", "source-blind kube": "firing"}


def test_configured_inhibition_needs_equal_labels() -> None:
    run = AlertRun(
        RULES + "inhibit: [{source: [rule=node-down], target: [rule=crashing], equal: [origin]}]"
    )
    run.feed_now(node("NotReady"), crash(), pod("web", "CrashLoopBackOff", origin="other"))
    assert run.alerts == {
        "node-down n1": "firing", "crashing db": "inhibited", "crashing web": "firing",
    }  # fmt: skip


def test_inhibition_follows_the_labels_of_the_alert_that_inhibits() -> None:
    run = AlertRun(RULES + "inhibit: [{source: [rule=node-down, zone=a], target: [rule=crashing]}]")

    def break_node(zone: str) -> None:
        state = {"labels": {"zone": zone}}
        run.feed_now(
            Resource(kind="node", name="n1", status="NotReady", origin="kube", time=START,
                     severity=Severity.ERROR, state=state)
        )  # fmt: skip

    run.feed_now(crash())
    break_node("a")
    assert run.alerts["crashing db"] == "inhibited"
    break_node("b")
    assert run.alerts == {"crashing db": "firing", "node-down n1": "firing"}


def test_inhibition_follows_the_resource_of_the_alert_that_inhibits() -> None:
    rules = RULES.replace("status: [NotReady]}}", "status: [NotReady]}}, group_by: [origin]")
    run = AlertRun(rules, LINKS)
    run.feed_now(crash("db", "n1"), crash("web", "n2"), node("NotReady", "n1"))
    assert run.alerts["crashing db"] == "inhibited"
    run.feed_now(node("NotReady", "n2"))
    assert (run.alerts["crashing db"], run.alerts["crashing web"]) == ("firing", "inhibited")


def test_two_alerts_never_inhibit_each_other() -> None:
    links = (*LINKS, ResourceLink(kind="node", parent="pod", name="pod", namespace="namespace"))
    run = AlertRun(RULES, links)
    broken = Resource(
        kind="node", name="n1", namespace="prod", status="NotReady", origin="kube", time=START,
        state={"pod": "db"},
    )  # fmt: skip
    run.feed_now(pod("db", "CrashLoopBackOff", state={"node": "n1"}), broken)
    assert "firing" in run.alerts.values()


def inhibited_event(root: Resource, *, labels: dict[str, str]) -> tuple[dict[str, Any], str]:
    """The data of the event of an inhibited pod, and the key that its resource has."""
    link = ResourceLink(kind="pod", parent="node", name="node", namespace="zone")
    run = AlertRun(RULES, (link,))
    state = {"node": root.name, "zone": root.namespace, "labels": labels}
    run.feed_now(root, pod("db", "CrashLoopBackOff", state=state))
    assert run.statuses == ["firing", "inhibited"]
    (known,) = [each for each in run.resources.values() if each.state.get("inhibited_by")]
    assert known.state["inhibited_by"] == run.key("node-down")
    return run.alert_events[-1].data, run.key("node-down")  # type: ignore[return-value]


def test_event_names_the_alert_that_inhibits_only_where_all_who_see_it_see_that_one() -> None:
    def root(namespace: str, **labels: str) -> Resource:
        return Resource(
            kind="node", name="n1", namespace=namespace, status="NotReady", origin="kube",
            severity=Severity.ERROR, time=START, state={"labels": labels},
        )  # fmt: skip

    data, key = inhibited_event(root("prod", app="x", zone="y"), labels={"app": "x"})
    assert data["inhibited_by"] == key
    for hidden in (root("other", app="x"), root("prod", app="z"), root("prod")):
        data, key = inhibited_event(hidden, labels={"app": "x"})
        assert "inhibited_by" not in data
        assert key not in str(data)
