"""Requests to receivers: bounded, without redirects, with errors that tell what to do."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from almenara.config import Secret, redact_secrets
from almenara.hookspecs import DeliveryError, DeliveryRefusedError
from almenara.sdk import describe_error
from almenara.sdk.http import create_client, describe_http_error
from almenara_notifiers.settings import TrustSettings

TIMEOUT: Final = 30.0
"""Seconds of a request at most; the timeout of the receiver is usually shorter."""
MIN_PART: Final = 6
"""Characters from which a part of a secret URL is hidden: `hook` is no secret."""
MAX_RESPONSE: Final = 65_536
MAX_CONSIDERED: Final = 2_000
MAX_EXCERPT: Final = 200
REFUSED: Final = frozenset((400, 406, 411, 413, 414, 415, 422))
"""Status codes that refuse the content. Others may be different tomorrow: a token is replaced, a
channel is created."""
HINTS: Final = {
    401: "check the token",
    403: "check the token and its permissions",
    404: "check the address",
    410: "check the address; it does not exist any more",
}
USER_AGENT: Final = "almenara-notifiers"


class Response(msgspec.Struct, frozen=True):
    """What a receiver responded."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None where it is something else."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


def reveal(secret: Secret) -> str:
    """Return the value of a secret. Raises `DeliveryError` where its file cannot be read."""
    try:
        return secret.reveal()
    except OSError as error:
        raise DeliveryError(describe_error(error)) from None


async def post(
    url: str,
    body: Any,
    settings: TrustSettings,
    *,
    secrets: Sequence[Secret | None] = (),
    headers: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    content_type: str = "application/json",
) -> Response:
    """Send a body, JSON unless it is bytes, and return the response to it.

    Redirects are not followed: they could lead to another server, or into the local network.
    `secrets` are removed from errors. Raises `DeliveryError` and `DeliveryRefusedError`.
    """
    hidden = [*secrets, *_parts_of_urls(secrets)]
    try:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sent = {"content-type": content_type, "user-agent": USER_AGENT, **(headers or {})}
        client = create_client(
            url,
            ca=settings.ca,
            verify=settings.verify,
            timeout=TIMEOUT,
            follow_redirects=False,
            auth=httpx.BasicAuth(*auth) if auth else None,
        )
        async with client, client.stream("POST", url, content=content, headers=sent) as response:
            text = await _read(response)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        reason = redact_secrets(describe_http_error(error, TIMEOUT), hidden)
        raise DeliveryError(reason) from None
    check_status(response, text, hidden)
    return Response(response.status_code, text)


def _parts_of_urls(secrets: Sequence[Secret | None]) -> Iterator[Secret]:
    """The path of each secret that is a URL, and the longer parts of path and query: a receiver may
    repeat them without the rest."""
    for secret in secrets:
        if secret is None:
            continue
        with contextlib.suppress(OSError):
            parts = urlsplit(secret.reveal())
            if parts.scheme not in ("http", "https"):
                continue
            texts = [f"{parts.path}?{parts.query}", parts.path, parts.query]
            texts += re.split("[/&=?]", f"{parts.path}?{parts.query}")
            yield from (Secret.of(text) for text in texts if len(text) >= MIN_PART)


async def _read(response: httpx.Response) -> bytes:
    """The first bytes of the body; the rest is not waited for, and nothing is decompressed."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size >= MAX_RESPONSE:
            break
    return b"".join(parts)[:MAX_RESPONSE]


def check_status(response: httpx.Response, body: bytes, secrets: Iterable[Secret | None]) -> None:
    """Raise `DeliveryError` or `DeliveryRefusedError` for a response that is no success."""
    code = response.status_code
    if response.is_success:
        return
    reason = f"status {code}"
    if response.is_redirect:
        raise DeliveryError(f"{reason}: it redirects, and redirects are not followed")
    if hint := HINTS.get(code):
        reason += f"; {hint}"
    if excerpt := describe_body(body, secrets):
        reason += f": {excerpt}"
    if code in REFUSED:
        raise DeliveryRefusedError(reason)
    raise DeliveryError(reason, retry_after=parse_retry_after(response.headers.get("retry-after")))


def describe_body(body: bytes, secrets: Iterable[Secret | None]) -> str:
    """Return the beginning of a response as one line, without secrets that it may repeat."""
    text = redact_secrets(body.decode("utf-8", "replace"), secrets).strip()[:MAX_CONSIDERED]
    line = describe_error(ValueError(text), MAX_EXCERPT) if text else ""
    return "".join(character if character.isprintable() else "·" for character in line)


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, a number or a date; None for anything else."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
