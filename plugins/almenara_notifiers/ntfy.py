"""ntfy: https://docs.ntfy.sh/publish/#publish-as-json."""

from typing import Any, Final

from almenara.hookspecs import Delivery, Notification
from almenara.signals import Severity
from almenara_notifiers.client import post, reveal
from almenara_notifiers.settings import NtfySettings
from almenara_notifiers.text import cut, cut_bytes

MAX_MESSAGE: Final = 3_900
"""Bytes of a message; beyond 4,096, ntfy makes a file of it."""
PRIORITIES: Final = {
    Severity.FATAL: 5,
    Severity.ERROR: 4,
    Severity.WARN: 3,
    Severity.INFO: 2,
    Severity.DEBUG: 1,
}
RESOLVED_PRIORITY: Final = 2


def make_message(notification: Notification, topic: str) -> dict[str, Any]:
    """Return the message of a notification."""
    is_resolved = notification.status == "resolved"
    message: dict[str, Any] = {
        "topic": topic,
        "title": cut(notification.title, 250),
        "message": cut_bytes(notification.text, MAX_MESSAGE) or notification.title,
        "priority": RESOLVED_PRIORITY if is_resolved else PRIORITIES[notification.severity],
        "tags": ["white_check_mark" if is_resolved else "rotating_light"],
        "markdown": False,
    }
    if notification.link:
        message["click"] = notification.link
    return message


class NtfyNotifier:
    """A push notification for each notification."""

    def __init__(self, settings: NtfySettings) -> None:
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        token = self.settings.token
        await post(
            self.settings.url,
            make_message(notification, self.settings.topic),
            self.settings,
            secrets=[token],
            headers={"authorization": f"Bearer {reveal(token)}"} if token is not None else {},
        )
        return Delivery()
