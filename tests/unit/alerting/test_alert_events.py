"""Alerts are read from events of Almenara itself, whatever is in them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.alerting.notifications.alert_events import AlertChange, read_change
from almenara.scope import Grant, build_scope
from almenara.signals import Event, Resource, Severity
from support.alerts import START, make_alert_event


def read(event: Event) -> AlertChange:
    change = read_change(event, 7)
    assert change is not None
    return change


def test_event_is_read() -> None:
    resource = {"kind": "k", "namespace": "n", "name": "x"}
    event = make_alert_event(
        "acknowledged", "a", by="ann", notify=["mail"], runbook="https://x", resource=resource
    )
    change = read(event)
    alert = change.alert
    assert (alert.rule, alert.fingerprint, alert.status) == ("disk_full", "a", "acknowledged")
    assert (alert.value, alert.threshold, alert.by) == (95.0, 90.0, "ann")
    assert (alert.resource, alert.runbook) == (("k", "n", "x"), "https://x")
    assert (change.notify, change.sequence, change.key) == (("mail",), 7, "disk_full/a")
    assert (alert.started, alert.ended) == (START, None)


def test_data_is_read_as_the_bus_stores_it() -> None:
    event = make_alert_event("firing")
    stored = msgspec.structs.replace(event, data=msgspec.Raw(msgspec.json.encode(event.data)))
    assert read(stored).alert == read(event).alert


def test_resource_is_read() -> None:
    resource = Resource(kind="almenara.alert", namespace="disk_full", name="a", status="firing",
                        origin="almenara/alerts", severity=Severity.WARN, time=START)  # fmt: skip
    change = read_change(resource, 1)
    assert change is not None
    assert (change.key, change.alert.status) == ("disk_full/a", "firing")


@pytest.mark.parametrize("origin", ["nats/ALERTS", "", "http", "almenara", "evil/almenara/alerts"])
def test_event_of_another_system_is_no_alert(origin: str) -> None:
    assert read_change(make_alert_event("firing", origin=origin), 1) is None


@pytest.mark.parametrize(
    "change",
    [{"type": "almenara.alert.unheard"}, {"type": "almenara.alert"}, {"type": "x.firing"},
     {"subject": "", "data": {}}, {"subject": "rule/"}],
)  # fmt: skip
def test_malformed_event_is_no_alert(change: dict[str, Any]) -> None:
    assert read_change(msgspec.structs.replace(make_alert_event("firing"), **change), 1) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rule", "labels", "annotations", "value", "since", "ended", "notify",
                             "resource", "kind", "name", "summary", "x"]), inner, max_size=6),
        max_leaves=12,
    )
)  # fmt: skip
def test_any_data_is_read(data: Any) -> None:
    change = read_change(msgspec.structs.replace(make_alert_event("firing"), data=data), 1)
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
        ({"sources": ("almenara",)}, True),
        ({"sources": ("nats",)}, False),
    ],
)
def test_alert_is_visible_within_a_scope(grant: dict[str, Any], is_visible: bool) -> None:
    resource = {"kind": "k", "namespace": "shop", "name": "n"}
    labels = {"team": "db", "x": "y,team=web"}
    change = read(make_alert_event("firing", labels=labels, resource=resource))
    scope = build_scope([Grant(**grant)], access_log=False)
    assert change.is_visible_to(scope) is is_visible
