"""PagerDuty, Events API v2: https://developer.pagerduty.com/docs/events-api-v2/overview/."""

from typing import Any, Final

from almenara.hookspecs import Delivery, Notification
from almenara.signals import Severity
from almenara_notifiers.client import post, reveal
from almenara_notifiers.settings import PagerDutySettings
from almenara_notifiers.text import LINK_TEXT, cut
from almenara_notifiers.webhook import annotations_of, format_moment, labels_of

MAX_SUMMARY: Final = 1_024
MAX_DETAILS: Final = 20
SEVERITIES: Final = {
    Severity.FATAL: "critical",
    Severity.ERROR: "error",
    Severity.WARN: "warning",
    Severity.INFO: "info",
    Severity.DEBUG: "info",
}


def choose_action(notification: Notification) -> str:
    """Return what happens to the incident of the group."""
    if notification.status == "resolved":
        return "resolve"
    open_alerts = [alert for alert in notification.alerts if alert.is_open]
    is_acknowledged = all(alert.status == "acknowledged" for alert in open_alerts)
    return (
        "acknowledge" if open_alerts and is_acknowledged and not notification.omitted else "trigger"
    )


def make_event(notification: Notification, routing_key: str) -> dict[str, Any]:
    """Return the event of a notification; `dedup_key` identifies the incident."""
    first = notification.alerts[0] if notification.alerts else None
    resource = first.resource if first is not None else None
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": choose_action(notification),
        "dedup_key": cut(notification.episode, 255),
        "client": "Almenara",
        "payload": {
            "summary": cut(notification.title, MAX_SUMMARY),
            "source": " ".join(filter(None, resource)) if resource else "almenara",
            "severity": SEVERITIES[notification.severity],
            "timestamp": format_moment(first.started if first else notification.created),
            "group": cut(notification.group, 255),
            "class": cut(first.rule, 255) if first else "",
            "custom_details": {
                "text": notification.text,
                "open": notification.open_count,
                "alerts": [
                    {**labels_of(alert), **annotations_of(alert)}
                    for alert in notification.alerts[:MAX_DETAILS]
                ],
            },
        },
    }
    if notification.link:
        event["client_url"] = notification.link
        event["links"] = [{"href": notification.link, "text": LINK_TEXT}]
    return event


class PagerDutyNotifier:
    """One incident for each episode of a group."""

    def __init__(self, settings: PagerDutySettings) -> None:
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        event = make_event(notification, reveal(self.settings.routing_key))
        await post(self.settings.url, event, self.settings, secrets=[self.settings.routing_key])
        return Delivery()
