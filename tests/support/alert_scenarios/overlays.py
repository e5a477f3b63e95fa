"""Scenarios of acknowledgement, silences, inhibition, flapping and blind sources."""

from almenara.signals import now
from support.alert_scenarios import SECOND, Receiver, Stage, resource, scenario
from support.notification_receivers import Slack

ITEM = {"when": {"resource": {"kind": "item", "namespace": "{}", "status": ["bad"]}}}


def rules_of(namespace: str) -> list[dict[str, object]]:
    """A rule about hosts, and one about the items on them."""
    return [
        {"part": kind, "when": {"resource": {"kind": kind, "namespace": namespace,
                                             "status": ["bad"]}}}
        for kind in ("host", "item")
    ]  # fmt: skip


def item(namespace: str, status: str, host: str = "h1") -> tuple[str, dict[str, object]]:
    return resource("item", "i1", status, "ERROR", namespace=namespace, state={"host": host})


async def check_silence_of(stage: Stage, status: str) -> None:
    """Check that an alert `a` with a status is not repeated, and its end still arrives."""
    await stage.fail("b")
    # Only now the notifications certainly know the status of `a`.
    message = await stage.next()
    while message.names != {"a": status, "b": "firing"}:
        message = await stage.next()
    await stage.recover("b")
    while message.names != {"a": status, "b": "resolved"}:
        message = await stage.next()
    await stage.elapse(2.5)
    assert stage.unread() == 0
    await stage.recover("a")
    assert (await stage.next()).names == {"a": "resolved"}
    assert await stage.statuses("a") == ["firing", status, "resolved"]


@scenario(repeat_interval=1.0)
async def an_acknowledged_alert_is_not_repeated(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.act("acknowledge", "a", comment="mine")
    alert = await stage.alert("a", "acknowledged")
    assert (alert["state"]["comment"], bool(alert["state"]["by"])) == ("mine", True)
    await check_silence_of(stage, "acknowledged")


@scenario()
async def a_new_alert_beside_an_acknowledged_one_is_sent(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.act("acknowledge", "a")
    await stage.alert("a", "acknowledged")
    await stage.fail("b")
    assert (await stage.next()).names == {"a": "acknowledged", "b": "firing"}


@scenario(repeat_interval=1.0)
async def an_acknowledgement_that_is_taken_back_repeats_again(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.act("acknowledge", "a")
    await stage.alert("a", "acknowledged")
    await stage.act("unacknowledge", "a")
    taken_back = now()
    await stage.alert("a", "firing")
    message = await stage.next()
    while message.created < taken_back:
        message = await stage.next()
    assert message.names == {"a": "firing"}


@scenario()
async def an_acknowledgement_ends_with_the_alert(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.act("acknowledge", "a")
    await stage.recover("a")
    assert (await stage.next()).status == "resolved"
    await stage.fail("a")
    message = await stage.next()
    assert (message.names, message.alerts[0].get("by", "")) == ({"a": "firing"}, "")


@scenario(receivers={"": Receiver(kind="slack", answer=Slack())})
async def an_acknowledgement_edits_the_message_quietly(stage: Stage) -> None:
    slack = stage.box().answer
    assert isinstance(slack, Slack)
    await stage.fail("a")
    await stage.until(lambda: slack.messages, "the message")
    await stage.act("acknowledge", "a")

    def text() -> str:
        return str(slack.messages["1.000"]["attachments"][0]["blocks"][0]["text"]["text"])

    await stage.until(lambda: "acknowledged by" in text(), "the edited message")
    assert slack.replies == []


@scenario()
async def a_silenced_alert_is_not_sent(stage: Stage) -> None:
    identity = await stage.silence("name=a")
    await stage.fail("a", "b")
    message = await stage.next()
    assert (message.names, message.open_count) == ({"b": "firing"}, 1)
    assert (await stage.alert("a", "silenced"))["state"]["silenced_by"] == identity


@scenario()
async def the_end_of_a_silence_sends_what_still_fires(stage: Stage) -> None:
    identity = await stage.silence()
    await stage.fail("a", "b")
    await stage.alert("b", "silenced")
    await stage.recover("b")
    await stage.elapse(0.5)
    assert stage.unread() == 0
    await stage.call("POST", f"/api/silences/{identity}/end")
    assert (await stage.next()).names == {"a": "firing"}


@scenario()
async def a_silence_expires(stage: Stage) -> None:
    await stage.silence(seconds=1)
    start = now()
    await stage.fail("a")
    message = await stage.next()
    assert message.names == {"a": "firing"}
    statuses = await stage.statuses("a")
    assert statuses[-1] == "firing"
    if statuses[0] == "silenced":
        assert (await stage.transitions("a"))[-1]["time"] >= start


@scenario(repeat_interval=1.0)
async def a_silence_stops_repeats_and_the_end_still_arrives(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.silence("name=a")
    await stage.alert("a", "silenced")
    await check_silence_of(stage, "silenced")


@scenario()
async def an_alert_that_resolves_while_it_is_silenced_is_never_sent(stage: Stage) -> None:
    identity = await stage.silence("name=a")
    await stage.fail("a")
    await stage.alert("a", "silenced")
    await stage.recover("a")
    await stage.alert("a", "resolved")
    await stage.call("POST", f"/api/silences/{identity}/end")
    await stage.fail("b")
    assert (await stage.next()).names == {"b": "firing"}


@scenario()
async def a_silence_with_expressions_covers_what_matches(stage: Stage) -> None:
    await stage.silence('name=~"web-.*|db"', "severity!=WARN")
    await stage.fail("web-1", "db", "mail")
    assert (await stage.next()).names == {"mail": "firing"}
    for name in ("web-1", "db"):
        await stage.alert(name, "silenced")


@scenario(rules=rules_of("what-depends-on-a-host-is-inhibited"), group_by=[])
async def what_depends_on_a_host_is_inhibited(stage: Stage) -> None:
    await stage.publish(
        resource("host", "h1", "bad", "ERROR", namespace=stage.name),
        resource("host", "h1", "bad", "ERROR", namespace=""), item(stage.name, "bad"),
    )  # fmt: skip
    # An item names its host by the name alone: hosts have no namespace there.
    message = await stage.next()
    assert set(message.names) == {"h1", "i1"} or set(message.names) == {"h1"}


@scenario(
    rules=[{"part": "host", "when": {"resource": {"kind": "host", "name": "root-*",
                                                  "status": ["bad"]}}},
           {"part": "item", "when": {"resource": {"kind": "item", "status": ["bad"],
                                                  "namespace": "a-root-is-sent"}}}],
    group_by=[],
)  # fmt: skip
async def a_root_is_sent_and_its_dependants_follow_its_end(stage: Stage) -> None:
    namespace = "a-root-is-sent"
    await stage.publish(
        resource("host", "root-1", "bad", "ERROR"), item(namespace, "bad", "root-1")
    )
    assert (await stage.next()).names == {"root-1": "firing"}
    inhibited = await stage.alert("i1", "inhibited")
    root = await stage.alert("root-1", "firing")
    assert inhibited["state"]["inhibited_by"] == root["key"]
    await stage.publish(resource("host", "root-1", "ok"))
    message = await stage.next()
    while "i1" not in message.names:
        message = await stage.next()
    assert message.names["i1"] == "firing"


@scenario(
    rules=[{"part": "host", "when": {"resource": {"kind": "host", "name": "gone-*",
                                                  "status": ["bad"]}}},
           {"part": "item", "when": {"resource": {"kind": "item", "status": ["bad"],
                                                  "namespace": "both-end"}}}],
    group_by=[],
)  # fmt: skip
async def a_dependant_that_ends_with_its_root_is_never_sent(stage: Stage) -> None:
    await stage.publish(
        resource("host", "gone-1", "bad", "ERROR"), item("both-end", "bad", "gone-1")
    )
    assert (await stage.next()).names == {"gone-1": "firing"}
    await stage.publish(item("both-end", "ok", "gone-1"), resource("host", "gone-1", "ok"))
    assert (await stage.next()).names == {"gone-1": "resolved"}


@scenario(
    rules=[{}, {"part": "mild", "severity": "WARN"}], group_by=[], group_wait=0.5,
    inhibit=[{"source": ["severity=ERROR"], "target": ["severity=WARN"], "equal": ["name"]}],
)  # fmt: skip
async def a_configured_inhibition_compares_labels(stage: Stage) -> None:
    await stage.publish(
        stage.thing("a", "bad"),
        resource("thing", "b", "bad", "WARN", namespace=stage.name),
    )
    message = await stage.next()
    # Each rule has an alert for each resource: those of the milder rule are inhibited.
    assert {alert["rule"] for alert in message.alerts} == {stage.name}
    assert message.open_count == 2


@scenario(rules=[{}], group_interval=0.2)
async def flapping_is_named_and_settles(stage: Stage) -> None:
    await stage.publish(*(
        stage.thing("a", "bad" if place % 2 == 0 else "ok") for place in range(7)
    ))  # fmt: skip
    message = await stage.next()
    assert message.names == {"a": "flapping"}
    await stage.recover("a")
    assert (await stage.next()).names == {"a": "resolved"}
    statuses = await stage.statuses("a")
    assert (statuses.count("firing"), statuses[-2:]) == (3, ["flapping", "resolved"])


@scenario(rules=[{}], group_interval=0.2)
async def an_alert_that_flaps_is_sent_once_however_often_it_changes(stage: Stage) -> None:
    await stage.publish(*(
        stage.thing("a", "bad" if place % 2 == 0 else "ok") for place in range(8)
    ))  # fmt: skip
    assert (await stage.next()).names == {"a": "flapping"}
    start = now()
    await stage.publish(*(
        stage.thing("a", "bad" if place % 2 == 0 else "ok", time=start + place)
        for place in range(21)
    ))  # fmt: skip
    # It holds at last, so that it fires again once it has settled.
    await stage.alert("a", "firing")
    await stage.elapse(0.6)
    assert stage.unread() == 0


@scenario(
    rules=[{"when": {"resource": {"kind": "thing", "source": "frail", "status": ["bad"]}}},
           {"part": "source", "when": {"resource": {
               "kind": "almenara.source", "name": "frail",
               "status": ["degraded", "blocked", "backing_off"]}}}],
    group_by=[],
)  # fmt: skip
async def a_blind_source_makes_its_alerts_unknown(stage: Stage) -> None:
    await stage.publish(stage.thing("a", "bad"), source="frail")
    assert (await stage.next()).names == {"a": "firing"}
    await stage.host.lab.send("frail", degraded="the system does not answer")
    await stage.alert("a", "unknown")
    # The receiver learns of the source, and not that the alert is resolved.
    message = await stage.next()
    assert message.names["frail"] == "firing"
    assert message.names["a"] in ("firing", "inhibited", "unknown")
    await stage.host.lab.send("frail", degraded="")
    await stage.alert("a", "firing")
    while message.names.get("frail") != "resolved":
        message = await stage.next()
    await stage.publish(stage.thing("a", "ok"), source="frail")
    while message.status != "resolved":
        message = await stage.next()
    statuses = await stage.statuses("a")
    assert (statuses.count("unknown"), statuses.count("resolved")) == (1, 1)
    assert statuses[-1] == "resolved"


@scenario(
    rules=[
        {"when": {"events": {"types": ["app.blind.failed"], "count": 1, "within": 1}}},
    ],
)
async def a_window_does_not_end_while_its_source_is_blind(stage: Stage) -> None:
    fields = {"id": f"blind-{now()}", "source": "x", "type": "app.blind.failed", "subject": "a"}
    await stage.host.lab.send("fragile", degraded="the system does not answer")
    start = now()
    await stage.elapse(1.5)
    await stage.publish(("event", {**fields, "time": start}), source="fragile")
    await stage.next()
    await stage.elapse(2.0)
    assert stage.unread() == 0
    alert = await stage.alert("a")
    assert alert["status"] != "resolved"


@scenario()
async def a_changed_summary_is_no_news(stage: Stage) -> None:
    await stage.fail("a", state={"note": "one"})
    await stage.next()
    await stage.fail("a", state={"note": "two"}, time=now() + 40 * SECOND)
    await stage.elapse(1.0)
    assert stage.unread() == 0
