"""Scenarios of conditions, their durations, and missing data."""

from almenara.signals import now
from support.alert_scenarios import SECOND, Stage, event, sample, scenario


def events(**condition: object) -> dict[str, object]:
    return {"when": {"events": {"count": 1, "within": 600, **condition}}}


def metric(**condition: object) -> dict[str, object]:
    return {"when": {"sample": {"above": 90, **condition}}}


@scenario(rules=[{"for": 1.0}])
async def an_alert_fires_once_it_has_held_for_its_duration(stage: Stage) -> None:
    await stage.fail("a")
    await stage.alert("a", "pending")
    assert stage.unread() == 0
    assert (await stage.next()).names == {"a": "firing"}
    pending, firing = await stage.transitions("a")
    assert firing["started"] == firing["time"] == pending["since"] + SECOND


@scenario(rules=[{"for": 2.0}])
async def a_duration_starts_again_after_an_interruption(stage: Stage) -> None:
    start = now()
    await stage.publish(
        stage.thing("a", "bad", time=start), stage.thing("a", "ok", time=start + SECOND),
        stage.thing("a", "bad", time=start + 3 * SECOND // 2),
    )  # fmt: skip
    assert (await stage.next()).names == {"a": "firing"}
    firing = (await stage.transitions("a"))[-1]
    assert firing["started"] == start + 7 * SECOND // 2


@scenario(rules=[{"for": 1.0}])
async def what_ends_before_its_duration_never_fires(stage: Stage) -> None:
    await stage.fail("a")
    await stage.alert("a", "pending")
    await stage.recover("a")
    await stage.fail("b")
    # The timer of the second one is later than that of the first one.
    assert (await stage.next()).names == {"b": "firing"}
    assert "a" not in await stage.alerts()


@scenario(rules=[{"keep_firing_for": 1.0}])
async def an_alert_keeps_firing_for_its_duration(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    end = now()
    await stage.recover("a", time=end)
    assert (await stage.next()).status == "resolved"
    assert (await stage.transitions("a"))[-1]["ended"] == end + SECOND


@scenario(rules=[{"keep_firing_for": 2.0}])
async def an_alert_that_returns_while_it_is_kept_does_not_resolve(stage: Stage) -> None:
    start = now()
    await stage.publish(
        stage.thing("a", "bad", time=start), stage.thing("a", "ok", time=start + SECOND),
        stage.thing("a", "bad", time=start + 2 * SECOND),
        stage.thing("a", "ok", time=start + 4 * SECOND),
    )  # fmt: skip
    await stage.next()
    assert (await stage.next()).status == "resolved"
    assert await stage.statuses("a") == ["firing", "resolved"]
    assert (await stage.transitions("a"))[-1]["ended"] == start + 6 * SECOND


@scenario(rules=[{"for": 1.0, "keep_firing_for": 1.0}])
async def both_durations_add_up(stage: Stage) -> None:
    start = now()
    await stage.fail("a", time=start)
    await stage.next()
    await stage.recover("a", time=start + 3 * SECOND)
    await stage.next()
    end = (await stage.transitions("a"))[-1]
    assert (end["started"], end["ended"]) == (start + SECOND, start + 4 * SECOND)


@scenario(rules=[events(types=["app.count.failed"], count=3)])
async def events_are_counted_to_the_number(stage: Stage) -> None:
    await stage.publish(event("app.count.failed"), event("app.count.failed"))
    await stage.publish(event("app.count.failed", "b"))
    await stage.elapse(1.0)
    assert await stage.alerts() == {}
    await stage.publish(event("app.count.failed"))
    message = await stage.next()
    assert message.names == {"a": "firing"}
    assert (message.alerts[0]["value"], message.alerts[0]["threshold"]) == (3.0, 3.0)


@scenario(rules=[events(types=["app.window.failed"], count=2, within=1)])
async def events_outside_the_window_do_not_count(stage: Stage) -> None:
    start = now()
    await stage.publish(
        event("app.window.failed", time=start - 5 * SECOND), event("app.window.failed", time=start)
    )
    await stage.publish(
        event("app.window.failed", "b", time=start),
        event("app.window.failed", "b", time=start + SECOND // 2),
    )
    assert (await stage.next()).names == {"b": "firing"}
    assert (await stage.next()).names == {"b": "resolved"}
    # It ends when the older of both leaves the window.
    assert (await stage.transitions("b"))[-1]["ended"] == start + SECOND


@scenario(rules=[events(types=["app.until.failed"], until=["app.until.repaired"])])
async def an_event_ends_an_alert_at_once(stage: Stage) -> None:
    await stage.publish(event("app.until.failed"), event("app.until.failed", "b"))
    await stage.next()
    end = now()
    await stage.publish(event("app.until.repaired", time=end))
    assert (await stage.next()).names == {"a": "resolved", "b": "firing"}
    assert (await stage.transitions("a"))[-1]["ended"] == end


@scenario(
    rules=[{**events(types=["app.region.failed"]), "group_by": ["data.region"]}],
    group_by=["region"],
)
async def a_field_of_the_payload_makes_an_alert(stage: Stage) -> None:
    await stage.publish(*(
        event("app.region.failed", str(number), data={"region": region})
        for number, region in enumerate(("eu", "us", "eu"))
    ))  # fmt: skip
    names = [(await stage.next()).names, (await stage.next()).names]
    assert sorted(names, key=str) == [{"eu": "firing"}, {"us": "firing"}]


@scenario(
    rules=[events(types=["app.narrow.>"], severity="ERROR", subject="db-*", data={"code": "5*"})]
)
async def everything_that_an_event_condition_names_must_match(stage: Stage) -> None:
    good = {"severity": 17, "data": {"code": 503}}
    await stage.publish(
        event("app.narrow.a", "db-1", **{**good, "severity": 13}),
        event("app.narrow.a", "web-1", **good),
        event("app.narrow.a", "db-2", **{**good, "data": {"code": 404}}),
        event("app.other", "db-3", **good),
        event("app.narrow.b.c", "db-4", **good),
    )
    assert (await stage.next()).names == {"db-4": "firing"}


@scenario(rules=[events(types=["app.trace.failed"])], group_by=["correlation"])
async def events_of_one_correlation_are_one_alert(stage: Stage) -> None:
    await stage.publish(
        event("app.trace.failed", "x", correlation="t-1"),
        event("app.trace.failed", "y", correlation="t-1"),
    )
    message = await stage.next()
    assert (message.open_count, message.names) == (1, {"t-1": "firing"})


@scenario(rules=[metric(metric="lab.last")])
async def a_threshold_fires_with_its_value(stage: Stage) -> None:
    await stage.publish(sample("lab.last", 50.0), sample("lab.last", 95.5))
    alert = (await stage.next()).alerts[0]
    assert (alert["value"], alert["threshold"]) == (95.5, 90.0)
    assert alert["summary"] == "lab.last of a is 95.5, above 90"
    await stage.publish(sample("lab.last", 90.0))
    assert (await stage.next()).status == "resolved"


@scenario(rules=[metric(metric="lab.below", above=None, below=10)])
async def a_threshold_below_fires(stage: Stage) -> None:
    await stage.publish(sample("lab.below", 10.0, "a"), sample("lab.below", 9.0, "b"))
    assert (await stage.next()).names == {"b": "firing"}


@scenario(rules=[metric(metric="lab.avg", aggregation="avg", within=60)])
async def an_average_is_that_of_the_window(stage: Stage) -> None:
    start = now() - 10 * SECOND
    values = (100.0, 70.0, 95.0)
    await stage.publish(*(
        sample("lab.avg", value, "calm", time=start + place) for place, value in enumerate(values)
    ))  # fmt: skip
    await stage.publish(
        sample("lab.avg", 10.0, "old", time=start - 120 * SECOND),
        sample("lab.avg", 95.0, "old", time=start),
    )
    message = await stage.next()
    # The first alert of `calm` is over before the group is sent.
    assert message.names == {"old": "firing"}
    assert message.alerts[0]["value"] == 95.0


@scenario(rules=[metric(metric="lab.rate", aggregation="rate", within=60, above=5)])
async def a_rate_survives_the_restart_of_a_counter(stage: Stage) -> None:
    start = now() - 10 * SECOND
    counts = (1000.0, 1002.0, 2.0, 4.0)
    await stage.publish(*(
        sample("lab.rate", value, "slow", time=start + place * SECOND)
        for place, value in enumerate(counts)
    ))  # fmt: skip
    await stage.publish(
        sample("lab.rate", 0.0, "fast", time=start),
        sample("lab.rate", 20.0, "fast", time=start + 2 * SECOND),
    )
    message = await stage.next()
    assert (message.names, message.alerts[0]["value"]) == ({"fast": "firing"}, 10.0)


@scenario(rules=[metric(metric="lab.nodata", no_data=1)])
async def missing_data_is_unknown_and_not_resolved(stage: Stage) -> None:
    await stage.publish(sample("lab.nodata", 99.0))
    await stage.next()
    await stage.alert("a", "unknown")
    await stage.elapse(1.0)
    assert stage.unread() == 0
    await stage.publish(sample("lab.nodata", 1.0))
    assert (await stage.next()).names == {"a": "resolved"}
    assert await stage.statuses("a") == ["firing", "unknown", "resolved"]


@scenario(rules=[metric(metric="lab.return", no_data=1)])
async def data_that_returns_above_the_threshold_is_no_news(stage: Stage) -> None:
    await stage.publish(sample("lab.return", 99.0))
    await stage.next()
    await stage.alert("a", "unknown")
    await stage.publish(sample("lab.return", 98.0, time=now() + 120 * SECOND))
    await stage.alert("a", "firing")
    await stage.elapse(1.0)
    assert stage.unread() == 0


@scenario(rules=[{"when": {"absent": {"types": ["app.beat"], "within": 1}}}], group_by=[])
async def absence_fires_and_ends_with_the_event(stage: Stage) -> None:
    first = await stage.next()
    assert (first.status, first.open_count) == ("firing", 1)
    await stage.publish(event("app.beat", time=now() + 60 * SECOND))
    assert (await stage.next()).status == "resolved"


@scenario(
    rules=[{"when": {"absent": {"types": ["app.pulse"], "within": 2}}, "group_by": ["subject"]}]
)
async def absence_is_noticed_for_each_subject(stage: Stage) -> None:
    start = now()
    await stage.publish(
        event("app.pulse", "quiet", time=start),
        event("app.pulse", "busy", time=start + 4 * SECOND),
    )
    assert "quiet" in (await stage.next()).names
    transitions = await stage.transitions("quiet")
    assert transitions[0]["started"] == start + 2 * SECOND


@scenario(rules=[{"when": {"resource": {"kind": "gauge", "field": "replicas.ready", "below": 2}}}])
async def a_field_of_a_resource_is_compared(stage: Stage) -> None:
    def gauge(name: str, ready: object) -> tuple[str, dict[str, object]]:
        state = {"replicas": {"ready": ready}}
        return "resource", {"kind": "gauge", "name": name, "state": state}

    await stage.publish(gauge("a", 2), gauge("b", 1), gauge("c", "none"), gauge("d", None))
    message = await stage.next()
    assert (message.names, message.alerts[0]["value"]) == ({"b": "firing"}, 1.0)


@scenario()
async def a_resource_that_is_deleted_resolves(stage: Stage) -> None:
    await stage.fail("a")
    await stage.next()
    await stage.publish(stage.thing("a", "bad", deleted=True))
    assert (await stage.next()).status == "resolved"


@scenario(
    rules=[{"annotations": {"summary": "{{ name }} of {{ state.zone }}: {{ state.note + 1 }}"}},
           {"part": "good"}]
)  # fmt: skip
async def a_rule_that_fails_stops_no_other(stage: Stage) -> None:
    await stage.fail("a", state={"zone": "eu", "note": "text"})
    assert (await stage.next()).alerts[0]["rule"] == f"{stage.name}-good"
    rules = await stage.call("GET", "/api/resources?kind=almenara.alert_rule")
    failing = {rule["name"]: rule["state"] for rule in rules if rule["status"] == "failing"}
    assert "can only concatenate str" in failing[stage.name]["error"]
