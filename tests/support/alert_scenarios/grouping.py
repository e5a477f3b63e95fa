"""Scenarios of groups, their times, and routes."""

from itertools import pairwise

from support.alert_scenarios import SECOND, Receiver, Stage, scenario

LONG = 3600.0


@scenario(group_wait=4.0)
async def a_group_waits_for_further_alerts(stage: Stage) -> None:
    await stage.fail("a")
    await stage.fail("b")
    message = await stage.next()
    assert message.names == {"a": "firing", "b": "firing"}
    assert (message.status, message.open_count, message.group_labels) == (
        "firing", 2, {"rule": stage.name},
    )  # fmt: skip
    assert message.created >= min(alert["started"] for alert in message.alerts) + 4 * SECOND


@scenario(group_wait=0)
async def a_group_without_a_wait_is_sent_at_once(stage: Stage) -> None:
    await stage.fail("a")
    assert (await stage.next()).names == {"a": "firing"}


@scenario(group_by=["zone"], rules=[{"group_by": ["name", "state.zone"]}])
async def alerts_are_grouped_by_labels(stage: Stage) -> None:
    zones = {"a": "eu", "b": "us", "c": "eu"}
    await stage.publish(*(
        stage.thing(name, "bad", state={"zone": zone}) for name, zone in zones.items()
    ))  # fmt: skip
    messages = [await stage.next(), await stage.next()]
    groups = {message.group_labels["zone"]: message.names for message in messages}
    assert groups == {"eu": {"a": "firing", "c": "firing"}, "us": {"b": "firing"}}
    assert len({message.group for message in messages}) == 2


@scenario(group_by=["..."])
async def all_labels_make_each_alert_a_group(stage: Stage) -> None:
    await stage.fail("a", "b", "c")
    messages = [await stage.next() for _ in range(3)]
    assert sorted(name for message in messages for name in message.names) == ["a", "b", "c"]
    assert all(message.open_count == 1 for message in messages)


@scenario(rules=[{}, {"part": "twin", "severity": "WARN"}], group_by=[], group_wait=0.5)
async def an_empty_list_makes_one_group_of_all_rules(stage: Stage) -> None:
    await stage.fail("a")
    message = await stage.next()
    assert message.open_count == 2
    assert {alert["rule"] for alert in message.alerts} == {stage.name, f"{stage.name}-twin"}
    # The severest first, and the severity of the group is that of the severest.
    severities = [alert.get("severity", 17) for alert in message.alerts]
    assert (message.severity, severities) == (17, [17, 13])


@scenario(group_interval=0.8)
async def a_further_alert_waits_for_the_interval(stage: Stage) -> None:
    await stage.fail("a")
    first = await stage.next()
    await stage.fail("b")
    second = await stage.next()
    assert second.names == {"a": "firing", "b": "firing"}
    assert second.created >= first.created + 8 * SECOND // 10
    assert (second.episode, second.group) == (first.episode, first.group)
    assert second.version > first.version


@scenario()
async def a_resolved_group_is_sent_as_resolved(stage: Stage) -> None:
    await stage.fail("a")
    first = await stage.next()
    await stage.recover("a")
    end = await stage.next()
    assert (end.status, end.names) == ("resolved", {"a": "resolved"})
    assert (end.open_count, end.resolved_count, end.episode) == (0, 1, first.episode)
    assert end.alerts[0]["ended"] >= end.alerts[0]["started"]


@scenario()
async def a_group_of_which_a_part_is_resolved_is_firing(stage: Stage) -> None:
    await stage.fail("a", "b")
    await stage.next()
    await stage.recover("a")
    message = await stage.next()
    assert message.names == {"a": "resolved", "b": "firing"}
    assert (message.status, message.open_count, message.resolved_count) == ("firing", 1, 1)
    await stage.recover("b")
    end = await stage.next()
    assert (end.status, end.names) == ("resolved", {"b": "resolved"})


@scenario(group_wait=0.8)
async def an_alert_that_ends_within_the_wait_is_never_sent(stage: Stage) -> None:
    await stage.publish(stage.thing("a", "bad"), stage.thing("a", "ok"), stage.thing("b", "bad"))
    assert (await stage.next()).names == {"b": "firing"}


@scenario(group_interval=1.0)
async def an_alert_that_returns_within_the_interval_is_not_news(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.publish(stage.thing("a", "ok"), stage.thing("a", "bad"))
    await stage.elapse(2.5)
    assert stage.unread() == 0
    await stage.recover("a")
    assert (await stage.next()).status == "resolved"


@scenario()
async def a_new_episode_starts_after_the_end(stage: Stage) -> None:
    await stage.fail("a")
    first = await stage.next()
    await stage.recover("a")
    assert (await stage.next()).status == "resolved"
    await stage.fail("a")
    again = await stage.next()
    while again.episode == first.episode:
        # The end is sent again where the receiver was slow to confirm it.
        assert again.status == "resolved"
        again = await stage.next()
    assert again.status == "firing"
    assert again.reference == ""


@scenario(repeat_interval=1.0)
async def what_does_not_change_is_repeated(stage: Stage) -> None:
    await stage.fail("a")
    messages = [await stage.next()]
    # A slow delivery is replaced by the repeat, which is then the first that the receiver gets.
    while sum(message.is_repeat for message in messages) < 2:
        messages.append(await stage.next())
    assert all(message.names == {"a": "firing"} for message in messages)
    times = [message.created for message in messages]
    assert all(after - before >= SECOND for before, after in pairwise(times))
    versions = [message.version for message in messages]
    assert versions == sorted(set(versions))


@scenario(repeat_interval=1.0)
async def news_delays_the_repeat(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.fail("b")
    both = {"a": "firing", "b": "firing"}
    news = await stage.next()
    # On a slow machine the first one is repeated before the news, or sent again.
    while news.is_repeat or news.names != both:
        news = await stage.next()
    repeat = await stage.next()
    assert repeat.names == both
    assert repeat.created >= news.created + SECOND


@scenario()
async def what_does_not_change_is_not_sent_before_the_repeat(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    # The same status again, and a group that is compared several times.
    for _ in range(4):
        await stage.fail("a", state={"note": "again"})
        await stage.elapse(0.4)
    assert stage.unread() == 0


@scenario(receivers={"": Receiver(options={"send_resolved": False})})
async def the_end_is_not_sent_where_that_is_off(stage: Stage) -> None:
    await stage.fail("a")
    first = await stage.next()
    await stage.recover("a")
    await stage.alert("a", "resolved")
    await stage.elapse(1.0)
    await stage.fail("a")
    again = await stage.next()
    assert (again.status, again.names) == ("firing", {"a": "firing"})
    assert again.version > first.version


@scenario(
    receivers={"": Receiver(), "ops": Receiver(), "rest": Receiver()},
    rules=[{}, {"part": "mild", "severity": "WARN"}],
    routes=[
        {"matchers": ["severity=error"], "receivers": ["ops"]},
        {"matchers": ["severity=~error|warn"], "receivers": ["rest"]},
    ],
)
async def the_first_route_that_matches_is_used(stage: Stage) -> None:
    await stage.fail("a")
    assert (await stage.next("ops")).alerts[0]["rule"] == stage.name
    assert (await stage.next("rest")).alerts[0]["rule"] == f"{stage.name}-mild"
    await stage.recover("a")
    assert (await stage.next("ops")).status == "resolved"
    assert (await stage.next("rest")).status == "resolved"
    assert stage.unread("ops") == stage.unread("rest") == stage.unread() == 0


@scenario(
    receivers={"": Receiver(), "copy": Receiver()},
    routes=[{"matchers": ["severity=error"], "receivers": ["copy"], "continue": True},
            {"matchers": ["severity!=info"]}],
)  # fmt: skip
async def a_route_that_continues_adds_receivers(stage: Stage) -> None:
    await stage.fail("a")
    assert (await stage.next("copy")).names == (await stage.next()).names == {"a": "firing"}


@scenario(
    receivers={"": Receiver(), "deep": Receiver()},
    routes=[{"matchers": ["severity=error"], "group_wait": LONG, "routes": [
        {"matchers": ["name=~a|b"], "receivers": ["deep"], "group_wait": 0.1}]}],
)  # fmt: skip
async def the_deepest_route_decides_receiver_and_times(stage: Stage) -> None:
    await stage.fail("a", "b")
    assert (await stage.next("deep")).names == {"a": "firing", "b": "firing"}
    assert stage.unread() == 0


@scenario(
    receivers={"": Receiver(), "named": Receiver()},
    rules=[{"notify": ["named"]}],
)
async def a_rule_names_its_receivers_itself(stage: Stage) -> None:
    # This route starts from the times of the root of the tree; its group wait is 0.2 s here.
    await stage.fail("a")
    assert (await stage.next("named")).names == {"a": "firing"}
    assert stage.unread() == 0


@scenario(
    receivers={"": Receiver(), "team": Receiver(options={"grants": [{"labels": {"team": "db"}}]})},
    routes=[{"matchers": [], "receivers": ["", "team"]}],
    group_wait=0.5,
)
async def a_receiver_gets_what_it_may_read(stage: Stage) -> None:
    await stage.publish(
        stage.thing("ours", "bad", state={"labels": {"team": "db"}}),
        stage.thing("theirs", "bad", state={"labels": {"team": "web"}}),
    )
    assert (await stage.next()).open_count == 2
    message = await stage.next("team")
    assert message.names == {"ours": "firing"}
    assert (message.open_count, message.omitted) == (1, 0)


@scenario(
    rules=[{"annotations": {"summary": "{{ name }}"}}],
    receivers={"": Receiver(kind="slack_webhook", options={
        "text": "{{ alerts|length }} of {{ count }}, {{ omitted }} left out"})},
    group_wait=0.5,
)  # fmt: skip
async def a_message_lists_some_alerts_and_counts_the_rest(stage: Stage) -> None:
    await stage.fail(*(f"item-{number}" for number in range(30)))
    box = stage.box()
    await stage.until(lambda: box.bodies, "the message")
    text = box.bodies[0]["attachments"][0]["blocks"][0]["text"]["text"]
    assert "FIRING 30" in box.bodies[0]["text"]
    assert text == "20 of 30, 10 left out"


@scenario(
    receivers={"": Receiver(kind="slack_webhook", options={"rate_limit": 20, "burst": 2})},
    group_by=["name"],
)
async def a_storm_becomes_a_digest(stage: Stage) -> None:
    await stage.fail(*(f"item-{number}" for number in range(20)))
    box = stage.box()
    await stage.until(lambda: any("[DIGEST]" in body["text"] for body in box.bodies), "the digest")
    texts = [body["text"] for body in box.bodies]
    assert texts[-1] == f"[DIGEST] {20 - len(texts) + 1} groups: {20 - len(texts) + 1} firing"


@scenario(receivers={"": Receiver(options={"rate_limit": 240, "burst": 1})}, group_by=["name"])
async def a_receiver_that_tracks_groups_gets_each_within_its_rate(stage: Stage) -> None:
    names = [f"item-{number}" for number in range(8)]
    await stage.fail(*names)
    messages = [await stage.next() for _ in names]
    assert sorted(name for message in messages for name in message.names) == names
    assert not any("DIGEST" in message.title for message in messages)
