"""Notifications with texts that would become markup of a receiver."""

from typing import Any

import msgspec

from almenara.hookspecs import Alert, Notification
from almenara.signals import Severity

START = 1_767_225_600_000_000
MENTIONS = "<!channel> <@U123> @everyone <https://evil.example|click> & <b>"
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"
MARKDOWN = "[click](https://evil.example) **bold** ![x](https://evil.example/x.png)"
HOSTILE = f"{MENTIONS} {HTML} {MARKDOWN}"


def make_alert(**fields: Any) -> Alert:
    return Alert(
        **{
            "rule": "disk_full",
            "fingerprint": "f1",
            "status": "firing",
            "labels": {"node": "node-3"},
            "summary": "The disk is full",
            "value": 95.0,
            "started": START,
            "since": START,
            **fields,
        }
    )


def make_notification(**fields: Any) -> Notification:
    """A notification about one alert that fires; `fields` replace what is different."""
    return Notification(
        **{
            "receiver": "ops",
            "group": "g1",
            "episode": "g1-7",
            "version": 7,
            "status": "firing",
            "severity": Severity.ERROR,
            "title": "[FIRING] disk_full",
            "text": "FIRING ERROR The disk is full\nsecond line",
            "alerts": (make_alert(),),
            "open_count": 1,
            "group_labels": {"rule": "disk_full"},
            "common_labels": {"rule": "disk_full"},
            "link": "https://almenara.example.com/events?type=a.%3E",
            "created": START,
            **fields,
        }
    )


def resolved(notification: Notification, **fields: Any) -> Notification:
    """The end of the episode of a notification."""
    alerts = tuple(
        msgspec.structs.replace(alert, status="resolved", ended=START + 60_000_000)
        for alert in notification.alerts
    )
    ends = {
        "version": notification.version + 1,
        "status": "resolved",
        "title": "[RESOLVED] disk_full",
        "alerts": alerts,
        "open_count": 0,
        "resolved_count": len(alerts),
    }
    return msgspec.structs.replace(notification, **{**ends, **fields})
