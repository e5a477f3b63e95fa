"""Slack: the Web API with a token, and incoming webhooks.

Texts of alerts are in `plain_text` objects, which Slack does not parse; where only its markup
exists, `&`, `<` and `>` are escaped, without which there is no mention and no link.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import (
    AlertAction,
    Delivery,
    DeliveryError,
    DeliveryRefusedError,
    Notification,
)
from almenara_notifiers.client import Response, post, reveal
from almenara_notifiers.settings import SlackSettings, SlackWebhookSettings
from almenara_notifiers.slack_buttons import make_buttons, read_callback
from almenara_notifiers.text import LINK_TEXT, color_of, cut

MAX_TITLE: Final = 250
MAX_SECTION: Final = 2_900
"""Characters of a section; Slack accepts 3,000."""
REFUSED: Final = frozenset(
    ("msg_too_long", "no_text", "invalid_blocks", "invalid_attachments", "invalid_arguments",
     "too_many_attachments", "msg_blocks_too_long", "markdown_text_conflict")
)  # fmt: skip
LOST: Final = frozenset(
    ("message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found",
     "thread_not_found")
)  # fmt: skip
"""Errors after which a new message is sent in place of an edited one."""
HINTS: Final = {  # nosec B105 # errors of Slack
    "invalid_auth": "check token",
    "not_authed": "check token",
    "token_revoked": "check token",
    "token_expired": "check token",
    "account_inactive": "check token",
    "missing_scope": "the app needs the scope chat:write",
    "channel_not_found": "check channel, and invite the app to it",
    "not_in_channel": "invite the app to the channel",
    "is_archived": "the channel is archived",
}


def escape(text: str) -> str:
    """Return a text without Slack's markup of mentions and links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def make_message(notification: Notification) -> dict[str, Any]:
    """Return text and attachment of a message."""
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": plain(cut(notification.text, MAX_SECTION) or "-")}
    ]
    if notification.link:
        link = notification.link.replace("|", "%7C").replace(">", "%3E")
        text = {"type": "mrkdwn", "text": f"<{link}|{LINK_TEXT}>"}
        blocks.append({"type": "context", "elements": [text]})
    return {
        "text": escape(cut(notification.title, MAX_TITLE)),
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "attachments": [
            {
                "color": color_of(notification),
                "blocks": blocks,
                "fallback": escape(notification.title),
            }
        ],
    }


def plain(text: str) -> dict[str, Any]:
    """Return a text object that Slack shows unparsed."""
    return {"type": "plain_text", "text": text, "emoji": False}


class SlackNotifier:
    """One message for each group: edited in place, with a reply in its thread for each change."""

    def __init__(self, settings: SlackSettings) -> None:
        self.settings = settings

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> Sequence[AlertAction]:
        if self.settings.signing_secret is None:
            raise ValueError("signing_secret is not set")
        return read_callback(headers, body, reveal(self.settings.signing_secret))

    async def notify(self, notification: Notification) -> Delivery:
        message = make_message(notification)
        if self.settings.signing_secret is not None:
            message["attachments"][0]["blocks"] += make_buttons(notification)
        channel, _, ts = notification.reference.partition(":")
        if ts and await self._edit(message, channel, ts):
            if not notification.is_quiet:
                await self._reply(notification, channel, ts)
            return Delivery(reference=notification.reference)
        posted = await self._call("chat.postMessage", {"channel": self.settings.channel, **message})
        return Delivery(reference=f"{posted.get('channel', '')}:{posted.get('ts', '')}")

    async def _edit(self, message: dict[str, Any], channel: str, ts: str) -> bool:
        """Replace the content of a message; return False where it does not exist any more."""
        response = await self._call(
            "chat.update", {"channel": channel, "ts": ts, **message}, accepted=LOST
        )
        return response.get("ok") is True

    async def _reply(self, notification: Notification, channel: str, ts: str) -> None:
        reply = {
            "channel": channel,
            "thread_ts": ts,
            "reply_broadcast": self.settings.broadcast and notification.status == "firing",
            "text": escape(cut(notification.title, MAX_TITLE)),
            "mrkdwn": False,
            "parse": "none",
            "link_names": False,
        }
        await self._call("chat.postMessage", reply)

    async def _call(
        self, method: str, body: dict[str, Any], accepted: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        token = reveal(self.settings.token)
        response = await post(
            f"{self.settings.url.rstrip('/')}/{method}",
            body,
            self.settings,
            secrets=[self.settings.token],
            headers={"authorization": f"Bearer {token}"},
            content_type="application/json; charset=utf-8",
        )
        return check_response(method, response, accepted)


def check_response(
    method: str, response: Response, accepted: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the answer of a method, which has status 200 also where the method failed.

    Raises `DeliveryError` and `DeliveryRefusedError`.
    """
    answer = response.json()
    if not isinstance(answer, dict):
        raise DeliveryError(f"{method} returned no JSON; check the url of the receiver")
    error = str(answer.get("error", ""))[:100]
    if answer.get("ok") is True or error in accepted:
        return answer
    text = f"{method}: {error or 'unknown error'}"
    if hint := HINTS.get(error):
        text += f"; {hint}"
    if error in REFUSED:
        raise DeliveryRefusedError(text)
    raise DeliveryError(text)


class SlackWebhookNotifier:
    """A message for each notification."""

    def __init__(self, settings: SlackWebhookSettings) -> None:
        self.settings = settings

    async def notify(self, notification: Notification) -> Delivery:
        await post(
            reveal(self.settings.url),
            make_message(notification),
            self.settings,
            secrets=[self.settings.url],
        )
        return Delivery()
