"""Webhooks of Alertmanager and of Grafana: each alert becomes an event when it fires, and another
one when it is resolved.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config and
https://grafana.com/docs/grafana/latest/alerting/configure-notifications/.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from almenara.config import IntakeSettings
from almenara.intake.body import decode_json
from almenara.intake.errors import RefusedPushError
from almenara.intake.values import read_severity, read_time, shorten
from almenara.signals import Event, Severity

STATUSES: Final = ("firing", "resolved")
GROUP_FIELDS: Final = ("receiver", "groupKey", "externalURL", "orgId", "truncatedAlerts")
"""Fields of the request that are added to each alert."""


class Alert(msgspec.Struct, kw_only=True):
    """An alert as both send it."""

    status: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    startsAt: str = ""  # noqa: N815 # as it is sent
    endsAt: str = ""  # noqa: N815
    fingerprint: str = ""


decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Notification(msgspec.Struct, kw_only=True):
    """A request of either, as far as it is read."""

    alerts: list[msgspec.Raw]
    externalURL: str = ""  # noqa: N815


def read_alerts(
    body: bytes, sender: str, settings: IntakeSettings, received: int
) -> Sequence[Event]:
    """Return the events of a webhook; `sender` is `alertmanager` or `grafana`.

    An alert that is sent again while it fires has the same id. Raises `RefusedPushError`.
    """
    notification = decode_json(body, Notification, settings.max_nesting)
    group = {name: raw for name, raw in decode_fields(body).items() if name in GROUP_FIELDS}
    source = notification.externalURL or sender
    return [
        _read_alert(raw, f"alerts[{index}]", sender, source, group, received)
        for index, raw in enumerate(notification.alerts)
    ]


def _read_alert(
    raw: msgspec.Raw, place: str, sender: str, source: str, group: dict[str, Any], received: int
) -> Event:
    try:
        alert = msgspec.json.decode(raw, type=Alert)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise RefusedPushError(f"{place}{path.rstrip('`')}: {message}.") from None
    if alert.status not in STATUSES:
        raise RefusedPushError(
            f"{place}.status: {shorten(alert.status)!r} is not firing or resolved."
        )
    identity = alert.fingerprint or _fingerprint(alert)
    is_firing = alert.status == "firing"
    stamp = alert.startsAt if is_firing else alert.endsAt
    moment = read_time(stamp)
    word = alert.labels.get("severity", "")
    severity = (read_severity(word) or Severity.WARN) if is_firing else Severity.INFO
    return Event(
        # The end of an alert that fires is a guess, which changes with each repetition.
        id="/".join((identity, alert.startsAt, alert.status, "" if is_firing else alert.endsAt)),
        source=source,
        type=f"{sender}.alert.{alert.status}",
        subject=alert.labels.get("alertname", ""),
        time=received if moment is None else moment,
        severity=severity,
        correlation=identity,
        data=msgspec.Raw(msgspec.json.encode({**group, **decode_fields(raw)})),
        problem=(
            None
            if moment is not None
            else f"{'startsAt' if is_firing else 'endsAt'} {shorten(stamp)!r} is not a time; the"
            " time of arrival is used"
        ),
    )


def _fingerprint(alert: Alert) -> str:
    """Return what identifies an alert without a fingerprint: its labels."""
    labels = msgspec.json.encode(sorted(alert.labels.items()))
    return hashlib.sha256(labels).hexdigest()[:16]
