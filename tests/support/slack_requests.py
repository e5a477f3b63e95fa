"""Requests of Slack about a button that was pressed, with their signature."""

import hashlib
import hmac
import json
from urllib.parse import urlencode

from almenara.sdk import now

SECRET = "signing-s3cret"


def sign_press(
    value: str = '["disk_full/f1"]', *, secret: str = SECRET, age: int = 0,
    action: str = "almenara.acknowledge",
) -> tuple[dict[str, str], bytes]:  # fmt: skip
    """Return headers and body; `age` is that of the timestamp in seconds."""
    payload = {
        "type": "block_actions", "user": {"id": "U1", "name": "ada", "team_id": "T1"},
        "actions": [{"action_id": action, "value": value, "type": "button"}],
    }  # fmt: skip
    body = urlencode({"payload": json.dumps(payload)}).encode()
    timestamp = str(now() // 1_000_000 - age)
    digest = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, hashlib.sha256)
    signature = {
        "x-slack-request-timestamp": timestamp, "x-slack-signature": f"v0={digest.hexdigest()}"
    }  # fmt: skip
    return signature, body
