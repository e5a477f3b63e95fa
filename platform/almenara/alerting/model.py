"""An alert: what is stored of it, and the resource and the event that it is published as."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from almenara.alerting import ALERT, ORIGIN
from almenara.alerting.signals import label_of
from almenara.scope import INHIBITED_BY, LABELS, NAMESPACE, write_labels
from almenara.signals import Event, Resource, Severity, parse_severity

Phase = Literal["inactive", "pending", "firing", "resolved"]
Status = Literal[
    "pending", "firing", "acknowledged", "silenced", "inhibited", "flapping", "resolved", "unknown"
]
STATUSES: Final = (
    "firing", "unknown", "flapping", "acknowledged", "silenced", "inhibited", "pending", "resolved",
)  # fmt: skip
"""The statuses in the order of their importance."""
ACTIVE: Final = frozenset(STATUSES) - {"pending", "resolved"}
"""Statuses of an alert whose condition holds, or is unknown."""
QUIET: Final = frozenset(("pending", "resolved", "acknowledged", "silenced", "inhibited"))
"""Statuses that need no one's attention now."""

Deadline = Literal["for", "keep", "until", "absent", "stale", "settle", "forget"]
Key = tuple[str, str, str]
Place = tuple[str, str, str, str]
"""Origin, kind, namespace and name of a resource."""
Window = list[tuple[int, float]]
"""Times in microseconds since the epoch, with values, the oldest first."""


class Alert(msgspec.Struct, kw_only=True):
    """One alert of a rule. Times are microseconds since the epoch."""

    rule: str
    fingerprint: str
    group: dict[str, str]
    labels: dict[str, str]
    phase: Phase = "inactive"
    status: str = ""
    """As published last; empty before."""
    holds: bool = False
    """Whether the condition holds."""
    since: int = 0
    """Since when the condition holds, or held the last time."""
    started: int = 0
    ended: int = 0
    value: float | str | None = None
    threshold: float | str | None = None
    annotations: dict[str, str] = {}
    resource: Key | None = None
    resource_origin: str = ""
    """The origin of that resource; empty where it is that of the alert."""
    parents: list[Place] = []
    origin: str = ""
    namespace: str = ""
    own_labels: dict[str, str] = {}
    """Labels of what it is about, which scopes may grant."""
    correlation: str | None = None
    cause: str = ""
    window: Window = []
    """Of conditions about events."""
    series: dict[str, Window] = {}
    """Of conditions about samples, the samples of each series that matter."""
    holding: dict[str, bool] = {}
    """Of conditions about resources, those for which it holds, with whether that is known."""
    deadlines: dict[str, int] = {}
    fires: list[int] = []
    """When it started to fire, within the window of flapping."""
    is_flapping: bool = False
    is_blind: bool = False
    """Whether its source cannot observe its system."""
    is_stale: bool = False
    """Whether its samples are missing, or its resource is not observed, whatever its source
    reports."""
    acknowledged_by: str = ""
    comment: str = ""
    signal_severity: str = ""
    """Severity of the signal that started it; empty for one without."""
    assignee: str = ""
    metric: str = ""
    """The metric that its condition compares; empty for other conditions."""
    inhibited_by: str = ""
    silenced_by: str = ""
    published: int = 0

    @property
    def key(self) -> str:
        """`<rule>/<fingerprint>`."""
        return f"{self.rule}/{self.fingerprint}"

    def is_visible_with(self, other: "Alert") -> bool:
        """Whether everyone who sees another alert sees this one, whatever their scopes are."""
        return (self.origin, self.namespace) == (other.origin, other.namespace) and (
            self.own_labels.items() >= other.own_labels.items()
        )

    def match_labels(self, severity: str) -> dict[str, str]:
        """The labels that matchers see."""
        return {"severity": severity, **self.labels, "rule": self.rule}


def place_of(alert: Alert) -> Place | None:
    """Return the resource that an alert is about, with its origin."""
    return (
        None if alert.resource is None else (alert.resource_origin or alert.origin, *alert.resource)
    )


def make_place_key(place: Place) -> str:
    """Return a short name of a resource, within an alert."""
    return hashlib.blake2b(msgspec.json.encode(place), digest_size=8).hexdigest()


def make_fingerprint(rule: str, group: Mapping[str, str]) -> str:
    """Return the name of an alert: a hash of its group."""
    text = msgspec.json.encode([rule, sorted(group.items())])
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def displayed_status(alert: Alert) -> str:
    """Return the status of an alert from its phase and what overlays it."""
    if alert.phase != "firing":
        return "" if alert.phase == "inactive" else alert.phase
    overlays = (
        ("unknown", alert.is_blind or alert.is_stale),
        ("silenced", bool(alert.silenced_by)),
        ("inhibited", bool(alert.inhibited_by)),
        ("acknowledged", bool(alert.acknowledged_by)),
        ("flapping", alert.is_flapping),
    )
    return next((status for status, holds in overlays if holds), "firing")


def list_group_labels(group: Mapping[str, str]) -> list[str]:
    """Return the names of the labels that tell the alerts of a rule apart, those included that
    are empty."""
    names = set(map(label_of, group))
    if "subject" in group or {"kind", "name"} <= group.keys():
        # The default group has no empty namespace.
        names.add("namespace")
    return sorted(names)


def make_state(alert: Alert, *, runbook: str, notify: list[str]) -> dict[str, Any]:
    """Return what the resource and the events of an alert have as state and data."""
    state: dict[str, Any] = {
        "rule": alert.rule,
        "labels": alert.labels,
        "grouped_by": list_group_labels(alert.group),
        "annotations": alert.annotations,
        "runbook": runbook,
        "value": alert.value,
        "threshold": alert.threshold,
        "since": alert.since,
        "started": alert.started or None,
        "ended": alert.ended or None,
        "notify": notify,
        "cause": alert.cause,
        "origin": alert.origin,
    }
    optional = {
        "by": alert.acknowledged_by,
        "comment": alert.comment,
        "assignee": alert.assignee,
        "metric": alert.metric,
        INHIBITED_BY: alert.inhibited_by,
        "silenced_by": alert.silenced_by,
        "namespace": alert.namespace,
        "own_labels": alert.own_labels,
    }
    state |= {name: value for name, value in optional.items() if value}
    if alert.resource is not None:
        kind, namespace, name = alert.resource
        state["resource"] = {"kind": kind, "namespace": namespace, "name": name}
    return state


def status_severity(status: str, severity: str) -> Severity:
    """Return the severity of a status of an alert: that of its rule while it needs attention."""
    return Severity.INFO if status in QUIET else parse_severity(severity)


def make_resource(alert: Alert, state: dict[str, Any], severity: str, time: int) -> Resource:
    """Return the resource of an alert; deleted where it is inactive."""
    return Resource(
        kind=ALERT,
        namespace=alert.rule,
        name=alert.fingerprint,
        status=alert.status,
        severity=status_severity(alert.status, severity),
        state=state,
        time=time,
        origin=alert.origin or ORIGIN,
        deleted=not alert.status,
    )


def make_event(
    alert: Alert, state: dict[str, Any], severity: str, time: int, identity: str, kind: str = ""
) -> Event:
    """Return the event of the transition of an alert to its present status, or of another kind."""
    attributes = {NAMESPACE: alert.namespace, LABELS: write_labels(alert.own_labels)}
    return Event(
        id=identity,
        source=ORIGIN,
        type=f"{ALERT}.{kind or alert.status}",
        subject=alert.key,
        time=time,
        severity=status_severity(alert.status, severity),
        data=state,
        origin=alert.origin or ORIGIN,
        correlation=alert.correlation,
        attributes={name: value for name, value in attributes.items() if value},
    )
