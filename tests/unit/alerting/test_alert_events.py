"""Alerts are read from resources of Almenara itself, whatever is in them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.alerting.notifications.alert_events import AlertChange, read_change
from almenara.scope import Grant, build_scope
from almenara.signals import Event, Resource, Severity
from support.alerts import START, make_alert_resource


def read(alert: Resource) -> AlertChange:
    change = read_change(alert, 7)
    assert change is not None
    return change


def test_resource_is_read() -> None:
    resource = {"kind": "k", "namespace": "n", "name": "x"}
    change = read(
        make_alert_resource(
            "acknowledged", "a", by="ann", notify=["mail"], runbook="https://x",
            resource=resource, namespace="shop", own_labels={"team": "db"},
        )
    )  # fmt: skip
    alert = change.alert
    assert (alert.rule, alert.fingerprint, alert.status) == ("disk_full", "a", "acknowledged")
    assert (alert.value, alert.threshold, alert.by) == (95.0, 90.0, "ann")
    assert (alert.resource, alert.runbook) == (("k", "n", "x"), "https://x")
    assert (change.notify, change.sequence, change.key) == (("mail",), 7, "disk_full/a")
    assert (change.namespace, change.own_labels) == ("shop", {"team": "db"})
    assert (alert.started, alert.ended) == (START, None)


def test_severity_is_that_of_the_rule() -> None:
    alert = make_alert_resource("acknowledged", severity=Severity.FATAL)
    assert alert.severity is Severity.INFO
    assert read(alert).alert.severity is Severity.FATAL
    alert.state["severity"] = "unheard of"
    assert read(alert).alert.severity is Severity.INFO


def test_deleted_alert_has_ended() -> None:
    alert = msgspec.structs.replace(make_alert_resource("firing"), status="", deleted=True)
    assert (read(alert).alert.status, read(alert).alert.ended) == ("resolved", START)


def test_value_may_be_text() -> None:
    assert read(make_alert_resource("firing", value="CrashLoopBackOff")).alert.value == (
        "CrashLoopBackOff"
    )


def test_event_of_any_origin_is_no_alert() -> None:
    alert = make_alert_resource("firing")
    event = Event(id="1", source="almenara.alerting", type="almenara.alert.firing", time=START,
                  subject="disk_full/a", data=alert.state, origin=alert.origin)  # fmt: skip
    assert read_change(event, 1) is None


@pytest.mark.parametrize(
    "change",
    [{"status": "unheard"}, {"status": ""}, {"kind": "x"}, {"namespace": ""}, {"name": ""}],
)
def test_malformed_resource_is_no_alert(change: dict[str, Any]) -> None:
    assert read_change(msgspec.structs.replace(make_alert_resource("firing"), **change), 1) is None


@given(
    st.dictionaries(
        st.sampled_from(["rule", "labels", "annotations", "value", "since", "ended", "notify",
                         "resource", "severity", "own_labels", "namespace", "by"]),
        st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rule", "labels", "annotations", "value", "since", "ended", "notify",
                             "resource", "kind", "name", "summary", "x"]), inner, max_size=6),
        max_leaves=12,
    ), max_size=8)
)  # fmt: skip
def test_any_state_is_read(state: Any) -> None:
    change = read_change(msgspec.structs.replace(make_alert_resource("firing"), state=state), 1)
    assert change is not None
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(change), type=AlertChange)
    assert again.key == change.key


@pytest.mark.parametrize(
    ("grant", "is_visible"),
    [
        ({}, True),
        ({"namespaces": ("shop",)}, True),
        ({"namespaces": ("other",)}, False),
        ({"labels": (("team", "db"),)}, True),
        ({"labels": (("team", "web"),)}, False),
        ({"types": ("almenara.alert.>",)}, True),
        ({"sources": ("kubernetes",)}, True),
        ({"sources": ("nats",)}, False),
    ],
)
def test_alert_is_visible_within_a_scope(grant: dict[str, Any], is_visible: bool) -> None:
    labels = {"team": "db", "x": "y,team=web"}
    change = read(
        make_alert_resource("firing", labels={"team": "web"}, own_labels=labels, namespace="shop")
    )
    scope = build_scope([Grant(**grant)], access_log=False)
    assert change.is_visible_to(scope) is is_visible
