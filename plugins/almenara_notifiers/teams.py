"""Microsoft Teams: an Adaptive Card for the webhook of a workflow.

Texts of alerts are in text runs, of which Teams shows Markdown unparsed; in a text block a link of
an alert would become a link of the card.
"""

from typing import Any, Final

from almenara.hookspecs import Delivery, Notification
from almenara_notifiers.client import post, reveal
from almenara_notifiers.settings import TeamsSettings
from almenara_notifiers.text import LINK_TEXT, cut_bytes

MAX_TEXT: Final = 16_000
"""Bytes of the text; Teams accepts messages of 28 KB."""
MAX_LINES: Final = 60


def make_card(notification: Notification) -> dict[str, Any]:
    """Return the message with the card of a notification."""
    color = "Good" if notification.status == "resolved" else "Attention"
    lines = cut_bytes(notification.text, MAX_TEXT).split("\n")
    title = {"type": "TextRun", "text": notification.title, "weight": "Bolder", "color": color}
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": [
            {"type": "RichTextBlock", "inlines": [title]},
            *(
                {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]}
                for line in lines[:MAX_LINES]
                if line.strip()
            ),
        ],
    }
    if notification.link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": LINK_TEXT, "url": notification.link}]
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


class TeamsNotifier:
    """A card for each notification."""

    def __init__(self, settings: TeamsSettings) -> None:
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        await post(
            reveal(self.settings.url),
            make_card(notification),
            self.settings,
            secrets=[self.settings.url],
        )
        return Delivery()
