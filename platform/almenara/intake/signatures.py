"""Signatures of webhooks, which prove the sender in place of a token.

https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries and
https://docs.gitlab.com/user/project/integrations/webhooks/.
"""

import hashlib
import hmac
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from almenara.config import IntakeSettings
from almenara.intake.errors import IntakeBusyError, RefusedPushError

HEADERS: Final = {"github": "x-hub-signature-256", "gitlab": "x-gitlab-token"}
RETRY_AFTER: Final = 30.0


def check_signature(body: bytes, headers: Mapping[str, str], settings: IntakeSettings) -> None:
    """Raise `RefusedPushError` where the body, as it was sent, has no valid signature.

    Raises `IntakeBusyError` while the file of the secret cannot be read.
    """
    if settings.signature is None or settings.secret is None:
        return
    try:
        secret = settings.secret.reveal().encode()
    except OSError:
        raise IntakeBusyError(
            "The secret of this webhook cannot be read at the moment.", RETRY_AFTER
        ) from None
    header = HEADERS[settings.signature]
    if settings.signature == "github":
        expected = b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
    else:
        expected = secret
    if not hmac.compare_digest(expected, headers.get(header, "").encode("utf-8", "replace")):
        raise RefusedPushError(
            f"The header {header} does not match the secret of this webhook.",
            HTTPStatus.UNAUTHORIZED,
        )
