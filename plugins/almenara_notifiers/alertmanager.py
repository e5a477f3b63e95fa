"""Alertmanager, API v2: passes alerts on, with the end of each."""

import re
from typing import Any, Final

from almenara.hookspecs import Alert, Delivery, Notification
from almenara_notifiers.client import post, reveal
from almenara_notifiers.settings import AlertmanagerSettings
from almenara_notifiers.webhook import annotations_of, format_moment, labels_of

INVALID: Final = re.compile(r"[^a-zA-Z0-9_]")


def make_labels(alert: Alert) -> dict[str, str]:
    """Return labels that every version of Alertmanager accepts: with names of letters, digits and
    underscores, and not empty."""
    labels: dict[str, str] = {}
    for name, text in {**labels_of(alert), "fingerprint": alert.fingerprint}.items():
        valid = INVALID.sub("_", name)
        if text:
            labels[valid if not valid[:1].isdigit() else f"_{valid}"] = text
    return labels


def make_alerts(notification: Notification, expires: float) -> list[dict[str, Any]]:
    """Return the alerts; one that is open ends after `expires` seconds unless it is sent again."""
    later = notification.created + int(expires * 1_000_000)
    return [
        {
            "labels": make_labels(alert),
            "annotations": annotations_of(alert),
            "startsAt": format_moment(alert.started),
            "endsAt": format_moment(later if alert.ended is None else alert.ended),
            **({"generatorURL": notification.link} if notification.link else {}),
        }
        for alert in notification.alerts
    ]


class AlertmanagerNotifier:
    """Passes the alerts of each notification on."""

    def __init__(self, settings: AlertmanagerSettings) -> None:
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        settings = self.settings
        password = reveal(settings.password) if settings.password is not None else ""
        headers = {}
        if settings.bearer is not None:
            headers["authorization"] = f"Bearer {reveal(settings.bearer)}"
        await post(
            f"{settings.url.rstrip('/')}/api/v2/alerts",
            make_alerts(notification, settings.expires),
            settings,
            secrets=[settings.bearer, settings.password],
            headers=headers,
            auth=(settings.user, password) if settings.user is not None else None,
        )
        return Delivery()
