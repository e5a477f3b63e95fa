"""Scenarios with a `kill -9` in each state of an alert, of a group and of a delivery."""

from almenara.signals import now
from support.alert_scenarios import (
    SECOND,
    Receiver,
    Scenario,
    Stage,
    event,
    resource,
    sample,
    scenario as any_scenario,
)
from support.alert_scenarios.delivery import Switch

RESTARTS: dict[str, Scenario] = {}


def scenario(**options: object) -> object:
    return any_scenario(into=RESTARTS, **options)  # type: ignore[arg-type]


@scenario(rules=[{"for": 3.0}])
async def a_pending_alert_fires_when_it_would_have(stage: Stage) -> None:
    start = now()
    await stage.fail("a", time=start)
    await stage.alert("a", "pending")
    await stage.restart()
    assert (await stage.next()).names == {"a": "firing"}
    transitions = await stage.transitions("a")
    assert [each["status"] for each in transitions] == ["pending", "firing"]
    assert transitions[1]["started"] == start + 3 * SECOND


@scenario()
async def a_firing_alert_is_not_sent_again(stage: Stage) -> None:
    await stage.fail("a")
    first = await stage.next()
    await stage.restart()
    await stage.elapse(2.0)
    # What was under way at the kill may come twice, with the version that it had.
    while stage.unread():
        assert (await stage.next()).version == first.version
    await stage.recover("a")
    assert (await stage.next()).names == {"a": "resolved"}
    assert await stage.statuses("a") == ["firing", "resolved"]


@scenario()
async def a_change_that_was_durable_before_the_kill_arrives(stage: Stage) -> None:
    await stage.publish(stage.thing("a", "bad"))
    await stage.restart()
    assert (await stage.next()).names == {"a": "firing"}


@scenario()
async def an_acknowledged_alert_stays_acknowledged(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.act("acknowledge", "a", comment="mine")
    await stage.restart()
    assert (await stage.alert("a", "acknowledged"))["state"]["comment"] == "mine"
    await stage.recover("a")
    message = await stage.next()
    while message.status != "resolved":
        message = await stage.next()
    assert await stage.statuses("a") == ["firing", "acknowledged", "resolved"]


@scenario()
async def a_silence_lasts(stage: Stage) -> None:
    identity = await stage.silence()
    await stage.fail("a")
    await stage.alert("a", "silenced")
    await stage.restart()
    await stage.alert("a", "silenced")
    assert stage.unread() == 0
    await stage.call("POST", f"/api/silences/{identity}/end")
    assert (await stage.next()).names == {"a": "firing"}


@scenario(
    rules=[{"part": "host", "when": {"resource": {"kind": "host", "name": "kill-*",
                                                  "status": ["bad"]}}},
           {"part": "item", "when": {"resource": {"kind": "item", "status": ["bad"],
                                                  "namespace": "inhibition"}}}],
    group_by=[],
)  # fmt: skip
async def an_inhibited_alert_stays_inhibited(stage: Stage) -> None:
    await stage.publish(
        resource("host", "kill-1", "bad", "ERROR"),
        resource("item", "i1", "bad", "ERROR", namespace="inhibition", state={"host": "kill-1"}),
    )
    await stage.alert("i1", "inhibited")
    await stage.restart()
    await stage.alert("i1", "inhibited")
    message = await stage.next()
    assert message.names == {"kill-1": "firing"}
    await stage.publish(resource("host", "kill-1", "ok"))
    while "i1" not in message.names:
        message = await stage.next()
    assert message.names["i1"] == "firing"


@scenario()
async def a_flapping_alert_settles(stage: Stage) -> None:
    await stage.publish(*(
        stage.thing("a", "bad" if place % 2 == 0 else "ok") for place in range(8)
    ))  # fmt: skip
    await stage.alert("a", "flapping")
    assert (await stage.next()).names == {"a": "flapping"}
    await stage.restart()
    message = await stage.next()
    while message.status != "resolved":
        assert message.names == {"a": "flapping"}
        message = await stage.next()
    assert (await stage.statuses("a"))[-2:] == ["flapping", "resolved"]


@scenario(rules=[{"when": {"sample": {"metric": "lab.killed", "above": 90, "no_data": 1}}}])
async def an_unknown_alert_is_not_resolved(stage: Stage) -> None:
    await stage.publish(sample("lab.killed", 99.0))
    await stage.next()
    await stage.alert("a", "unknown")
    await stage.restart()
    await stage.alert("a", "unknown")
    await stage.elapse(1.0)
    assert stage.unread() == 0
    await stage.publish(sample("lab.killed", 1.0))
    assert (await stage.next()).names == {"a": "resolved"}


@scenario()
async def a_resolved_alert_is_not_sent_again(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.recover("a")
    end = await stage.next()
    await stage.restart()
    await stage.alert("a", "resolved")
    await stage.elapse(2.0)
    while stage.unread():
        assert (await stage.next()).version == end.version
    await stage.fail("a")
    again = await stage.next()
    assert (again.names, again.episode != end.episode) == ({"a": "firing"}, True)


@scenario(rules=[{"keep_firing_for": 3.0}])
async def an_alert_that_is_kept_ends_when_it_would_have(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    end = now()
    await stage.recover("a", time=end)
    await stage.restart()
    message = await stage.next()
    while message.status != "resolved":
        message = await stage.next()
    assert (await stage.transitions("a"))[-1]["ended"] == end + 3 * SECOND


@scenario(group_wait=5.0)
async def a_group_that_waits_is_sent_once(stage: Stage) -> None:
    assert stage.restarts is not None
    await stage.until(lambda: stage.restarts.is_due_but_one, "the other scenarios")
    await stage.fail("a")
    await stage.alert("a", "firing")
    await stage.restart()
    first = await stage.next()
    # The wait goes on from where it was, and does not start again.
    assert first.created >= first.alerts[0]["started"] + 5 * SECOND
    await stage.fail("b")
    message = await stage.next()
    while message.version == first.version:
        message = await stage.next()
    assert message.names == {"a": "firing", "b": "firing"}


@scenario(receivers={"": Receiver(answer=Switch(503))})
async def what_waits_for_a_receiver_that_is_down_arrives(stage: Stage) -> None:
    switch = stage.box().answer
    assert isinstance(switch, Switch)
    await stage.fail("a")
    await stage.until(lambda: switch.refused, "a refused delivery")
    await stage.restart()
    await stage.fail("b")
    await stage.alert("b", "firing")
    switch.is_repaired = True
    message = await stage.next()
    while message.names != {"a": "firing", "b": "firing"}:
        assert message.names == {"a": "firing"}
        message = await stage.next()
    await stage.recover("a", "b")
    assert (await stage.next()).status == "resolved"


@scenario(rules=[{"when": {"events": {"types": ["app.kill.failed"], "count": 3, "within": 600}}}])
async def a_count_goes_on(stage: Stage) -> None:
    await stage.publish(event("app.kill.failed"), event("app.kill.failed"))
    await stage.restart()
    await stage.publish(event("app.kill.failed"))
    message = await stage.next()
    assert message.alerts[0]["value"] == 3.0


@scenario(
    rules=[{"when": {"absent": {"types": ["app.kill.beat"], "within": 4}},
            "group_by": ["subject"]}]
)  # fmt: skip
async def absence_counts_from_the_last_event(stage: Stage) -> None:
    start = now()
    await stage.publish(event("app.kill.beat", "a", time=start))
    await stage.restart()
    assert (await stage.next()).names == {"a": "firing"}
    assert (await stage.transitions("a"))[0]["started"] == start + 4 * SECOND


@scenario(repeat_interval=2.0)
async def a_repeat_keeps_its_interval(stage: Stage) -> None:
    await stage.fail("a")
    first = await stage.next()
    await stage.restart()
    message = await stage.next()
    while message.version == first.version:
        message = await stage.next()
    assert message.names == {"a": "firing"}
    assert message.created >= first.created + 2 * SECOND
