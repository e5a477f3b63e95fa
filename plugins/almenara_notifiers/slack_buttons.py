"""Buttons of Slack messages, and the signed requests that they cause.

https://docs.slack.dev/authentication/verifying-requests-from-slack
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import parse_qs

import msgspec

from almenara.hookspecs import AlertAction, Notification
from almenara.sdk import now

MAX_AGE: Final = 300
"""Seconds after which a request is not accepted any more."""
MAX_VALUE: Final = 2_000
"""Characters of the value of a button."""
SILENCE_SECONDS: Final = 3600.0
PREFIX: Final = "almenara."
Action = Literal["acknowledge", "silence"]
ACTIONS: Final[dict[str, Action]] = {
    f"{PREFIX}acknowledge": "acknowledge", f"{PREFIX}silence": "silence"
}  # fmt: skip


class User(msgspec.Struct):
    """Who has pressed a button."""

    id: str
    username: str = ""
    name: str = ""


class Press(msgspec.Struct):
    """A button that was pressed."""

    action_id: str
    value: str = ""


class Payload(msgspec.Struct):
    """The payload of a request about a message."""

    type: str
    user: User
    actions: list[Press] = []


def make_buttons(notification: Notification) -> list[dict[str, Any]]:
    """Return the block of buttons; empty where no alert is open, or not all fit into a button."""
    keys = [f"{alert.rule}/{alert.fingerprint}" for alert in notification.alerts if alert.is_open]
    value = msgspec.json.encode(keys).decode()
    if not keys or len(value) > MAX_VALUE or notification.omitted:
        return []
    new = [a for a in notification.alerts if a.status in ("firing", "flapping", "unknown")]
    buttons = [_button("Acknowledge", "acknowledge", value)] if new else []
    buttons.append(_button("Silence 1 h", "silence", value))
    return [{"type": "actions", "elements": buttons}]


def _button(text: str, action: Action, value: str) -> dict[str, Any]:
    label = {"type": "plain_text", "text": text, "emoji": False}
    return {"type": "button", "action_id": PREFIX + action, "text": label, "value": value}


def read_callback(headers: Mapping[str, str], body: bytes, secret: str) -> Sequence[AlertAction]:
    """Return what a request of Slack asks for. Raises `ValueError` for one that is not from Slack,
    is too old, or cannot be read."""
    check_signature(headers, body, secret)
    fields = parse_qs(body.decode(), max_num_fields=10)
    payload = msgspec.json.decode(fields.get("payload", [""])[0], type=Payload)
    user = payload.user.name or payload.user.username or payload.user.id
    return [
        AlertAction(action=ACTIONS[press.action_id], alert=key, by=user, seconds=SILENCE_SECONDS)
        for press in payload.actions
        if press.action_id in ACTIONS
        for key in msgspec.json.decode(press.value, type=list[str])
    ]


def check_signature(headers: Mapping[str, str], body: bytes, secret: str) -> None:
    """Raise `ValueError` where a request does not have a recent signature of Slack."""
    timestamp = headers.get("x-slack-request-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 15):
        raise ValueError("the request has no timestamp of Slack")
    if abs(now() // 1_000_000 - int(timestamp)) > MAX_AGE:
        raise ValueError("the request is too old, or the clock of this machine is wrong")
    content = b":".join((b"v0", timestamp.encode(), body))
    expected = "v0=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    signature = headers.get("x-slack-signature", "")
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise ValueError("the signature of the request is wrong; check signing_secret")
