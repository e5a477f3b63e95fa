"""Sends requests of remote write.

Needs httpx and cramjam, which are optional: import this module only where a receiver is configured.
"""

import base64
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

import cramjam
import httpx

from almenara.clock import now
from almenara.config import RemoteWriteSettings, Secret, redact_secrets
from almenara.errors import AlmenaraError, Unavailable
from almenara.remote_write.encoding import Encoder
from almenara.sdk.http import create_client, describe_http_error
from almenara.signals import Sample
from almenara.terminal import escape_control_characters
from almenara.units import SECOND

HEADERS: Final = {
    "content-type": "application/x-protobuf",
    "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "0.1.0",
    "user-agent": "almenara-remote-write",
}
REFUSED: Final = frozenset((400, 409, 413, 414, 415, 422, 431))
"""Statuses that are about the samples of a request. After any other error the same request can
succeed: once a token, an address or a limit is corrected, or the receiver is back."""
MAX_RETRY_AFTER: Final = 3600.0
LONGEST_REASON: Final = 200
READ_BYTES: Final = 4_096


class ReceiverUnavailableError(Unavailable):
    """A request failed, and can succeed later; the text gives the reason."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds that the receiver asks for."""


class SamplesRefusedError(AlmenaraError):
    """The receiver does not accept the samples of a request; the text gives its reason."""


class RemoteWriteClient:
    """Sends samples to one receiver. Use as an async context manager.

    Raises `ReceiverUnavailableError` where the file `ca` cannot be read.
    """

    def __init__(self, settings: RemoteWriteSettings) -> None:
        self.settings = settings
        self._encoder = Encoder(settings.labels)
        try:
            self._client = create_client(
                settings.url, ca=settings.ca, timeout=settings.timeout, follow_redirects=False
            )
        except OSError as error:
            raise ReceiverUnavailableError(str(error)) from None

    async def __aenter__(self) -> "RemoteWriteClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, samples: Sequence[Sample]) -> None:
        """Return once the receiver has stored the samples.

        Raises `ReceiverUnavailableError` and `SamplesRefusedError`.
        """
        body = bytes(cramjam.snappy.compress_raw(self._encoder.encode(samples)))
        try:
            async with self._client.stream(
                "POST", self.settings.url, content=body, headers={**HEADERS, **self._credentials()}
            ) as response:
                reason = "" if response.is_success else await self._describe(response)
        except Exception as error:
            # A server can make the client raise anything.
            text = describe_http_error(error, self.settings.timeout)
            raise ReceiverUnavailableError(self._clean(text)) from None
        if response.status_code in REFUSED:
            raise SamplesRefusedError(reason)
        if reason:
            raise ReceiverUnavailableError(reason, _read_retry_after(response))

    def _credentials(self) -> dict[str, str]:
        settings = self.settings
        headers = {name: value.reveal() for name, value in settings.headers.items()}
        if settings.bearer is not None:
            headers["authorization"] = f"Bearer {settings.bearer.reveal()}"
        if settings.password is not None:
            pair = f"{settings.username}:{settings.password.reveal()}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    async def _describe(self, response: httpx.Response) -> str:
        text = b""
        async for part in response.aiter_bytes():
            text += part
            if len(text) >= READ_BYTES:
                break
        reason = " ".join(text[:READ_BYTES].decode("utf-8", "replace").split())
        location = response.headers.get("location", "")
        if response.is_redirect and location:
            reason = f"it redirects to {location}"
        return self._clean(f"status {response.status_code}" + (f": {reason}" if reason else ""))

    def _clean(self, text: str) -> str:
        settings = self.settings
        secrets: list[Secret | None] = [
            settings.bearer, settings.password, *settings.headers.values(),
        ]  # fmt: skip
        return redact_secrets(escape_control_characters(text), secrets)[:LONGEST_REASON]


def _read_retry_after(response: httpx.Response) -> float:
    """Return the seconds of `Retry-After`; 0 where a receiver sends no valid one."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - now() / SECOND
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
