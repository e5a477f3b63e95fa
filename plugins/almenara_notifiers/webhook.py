"""Webhooks: Alertmanager's body or a CloudEvent, signed as in Standard Webhooks."""

import base64
import binascii
import hashlib
import hmac
from typing import Any, Final

import msgspec

from almenara.hookspecs import Alert, Delivery, Notification
from almenara.sdk import now
from almenara.signals import format_time
from almenara_notifiers.client import post, reveal
from almenara_notifiers.settings import WebhookSettings

SECRET_PREFIX: Final = "whsec_"  # noqa: S105
ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""What Alertmanager writes for the end of an alert that has not ended."""


class WebhookNotifier:
    """A POST request for each notification."""

    def __init__(self, settings: WebhookSettings) -> None:
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        settings = self.settings
        make, content_type = FORMATS[settings.format]
        body = msgspec.json.encode(make(notification))
        headers = {name: reveal(value) for name, value in settings.headers.items()}
        headers |= {"idempotency-key": notification.key}
        if settings.bearer is not None:
            headers["authorization"] = f"Bearer {reveal(settings.bearer)}"
        if settings.secret is not None:
            headers |= sign(notification.key, now() // 1_000_000, body, reveal(settings.secret))
        await post(
            reveal(settings.url),
            body,
            settings,
            secrets=[settings.url, settings.secret, settings.bearer, *settings.headers.values()],
            headers=headers,
            content_type=content_type,
        )
        return Delivery()


def sign(key: str, seconds: int, body: bytes, secret: str) -> dict[str, str]:
    """Return the headers of a signature: https://www.standardwebhooks.com.

    A secret that starts with `whsec_` is Base64 behind it; any other is used as it is written.
    """
    signing_key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            signing_key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            signing_key = secret.encode()
    content = b".".join((key.encode(), str(seconds).encode(), body))
    digest = hmac.new(signing_key, content, hashlib.sha256).digest()
    return {
        "webhook-id": key,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def make_alertmanager_body(notification: Notification) -> dict[str, Any]:
    """Return version 4 of the body of Alertmanager's webhook.

    https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
    """
    annotations = [annotations_of(alert) for alert in notification.alerts]
    shared = [*annotations[0].items()] if annotations else []
    return {
        "version": "4",
        "groupKey": notification.episode,
        "truncatedAlerts": notification.omitted,
        "status": notification.status,
        "receiver": notification.receiver,
        "groupLabels": notification.group_labels,
        "commonLabels": notification.common_labels,
        "commonAnnotations": {
            name: text for name, text in shared if all(a.get(name) == text for a in annotations)
        },
        "externalURL": notification.link,
        "alerts": [
            {
                "status": "firing" if alert.is_open else "resolved",
                "labels": labels_of(alert),
                "annotations": annotation,
                "startsAt": format_moment(alert.started),
                "endsAt": ZERO_TIME if alert.ended is None else format_moment(alert.ended),
                "generatorURL": notification.link,
                "fingerprint": alert.fingerprint,
            }
            for alert, annotation in zip(notification.alerts, annotations, strict=True)
        ],
    }


def labels_of(alert: Alert) -> dict[str, str]:
    """Return the labels of an alert as Alertmanager has them."""
    return {"severity": alert.severity.name.lower(), **alert.labels, "alertname": alert.rule}


def annotations_of(alert: Alert) -> dict[str, str]:
    """Return the annotations of an alert as Alertmanager has them."""
    texts = {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": alert.runbook,
        "value": f"{alert.value:g}" if isinstance(alert.value, float) else alert.value or "",
        "status": "" if alert.status in ("firing", "resolved") else alert.status,
    }
    return {name: text for name, text in texts.items() if text}


def format_moment(time: int) -> str:
    """Return the timestamp of microseconds; the zero time outside the calendar."""
    try:
        return format_time(time)
    except OverflowError:
        return ZERO_TIME


def make_cloudevent(notification: Notification) -> dict[str, Any]:
    """Return the notification as a CloudEvent in structured mode."""
    return {
        "specversion": "1.0",
        "id": notification.key,
        "source": "almenara/notifications",
        "type": f"almenara.notification.{notification.status}",
        "subject": notification.group,
        "time": format_moment(notification.created),
        "datacontenttype": "application/json",
        "data": msgspec.to_builtins(notification),
    }


FORMATS: Final = {
    "alertmanager": (make_alertmanager_body, "application/json"),
    "cloudevents": (make_cloudevent, "application/cloudevents+json"),
}
