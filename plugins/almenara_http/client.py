"""The request of a check, and whether its response is as expected."""

import asyncio
import re
import ssl
import time
from typing import Any, Final

import httpx
import msgspec

from almenara.config import redact_secrets
from almenara.sdk.http import Resolver, create_client, describe_http_error
from almenara_http.certificates import earliest_expiry
from almenara_http.decoding import BodyDecoder
from almenara_http.settings import CheckSettings, parse_codes

REDIRECTS: Final = 10
USER_AGENT: Final = "almenara-http"
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one request."""

    failure: str | None
    """Why the response is not as expected; None where it is."""
    latency: float | None = None
    """Seconds from the request until the body was read; None without a complete response."""
    code: int | None = None
    expires: float | None = None
    """When the first certificate of the chain expires, over all redirects, in seconds since the
    epoch; None without TLS."""
    size: int = 0
    """Bytes of the body that were read."""


async def perform_check(check: CheckSettings, resolver: Resolver | None = None) -> Outcome:
    """Send the request of a check; every failure is part of the outcome."""
    expiries: list[float] = []

    async def record_certificate(response: httpx.Response) -> None:
        # Called for each redirect as well, while its connection is still open.
        stream = response.extensions.get("network_stream")
        tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object") if stream else None
        if tls is not None and (expires := earliest_expiry(tls)) is not None:
            expiries.append(expires)

    try:
        client = _create_client(check, resolver, record_certificate)
        async with client, asyncio.timeout(check.timeout):
            started = time.monotonic()
            request = client.stream(
                check.method, check.url, headers=_headers(check), auth=_credentials(check)
            )
            async with request as response:
                decoder = BodyDecoder(response.headers.get("content-encoding", ""))
                body = await _read_body(response, decoder, check.body_limit)
            latency = time.monotonic() - started
    except TimeoutError:
        return Outcome(failure=f"no complete response within {check.timeout:g} s")
    except Exception as error:
        # A server, or one that it redirects to, can raise anything in the client; whatever it is,
        # it is the outcome of this check and must not affect others.
        return Outcome(failure=_describe(error, check))
    return Outcome(
        failure=_judge(check, response, body, decoder.unknown),
        latency=latency,
        code=response.status_code,
        expires=min(expiries, default=None),
        size=len(body),
    )


def _create_client(
    check: CheckSettings, resolver: Resolver | None, record_certificate: Any
) -> httpx.AsyncClient:
    """A client for one check. Raises `OSError` where its CA file cannot be read."""
    own = httpx.URL(check.url)

    async def keep_secrets(request: httpx.Request) -> None:
        # httpx removes only `Authorization` when a redirect leads to another server.
        if not _is_same_server(own, request.url):
            for name in check.headers:
                request.headers.pop(name, None)

    return create_client(
        check.url,
        ca=check.ca,
        verify=check.verify,
        resolver=resolver,
        timeout=check.timeout,
        follow_redirects=check.follow_redirects,
        max_redirects=REDIRECTS,
        event_hooks={"request": [keep_secrets], "response": [record_certificate]},
        # A new connection each time: a check must notice when new clients are not accepted.
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def _is_same_server(own: httpx.URL, other: httpx.URL) -> bool:
    """Whether two URLs are of one server; https of the same host counts as its http."""
    if own.host != other.host:
        return False
    one, two = ((url.scheme, url.port or DEFAULT_PORTS.get(url.scheme)) for url in (own, other))
    return one == two or (one, two) == (("http", 80), ("https", 443))


def _headers(check: CheckSettings) -> httpx.Headers:
    headers = httpx.Headers({"user-agent": USER_AGENT, "accept-encoding": "identity"})
    headers.update(
        {name.encode(): value.reveal().encode() for name, value in check.headers.items()}
    )
    if check.bearer is not None:
        headers.update({b"authorization": f"Bearer {check.bearer.reveal()}".encode()})
    return headers


def _credentials(check: CheckSettings) -> httpx.BasicAuth | None:
    if check.user is None:
        return None
    return httpx.BasicAuth(check.user, check.password.reveal() if check.password else "")


async def _read_body(response: httpx.Response, decoder: BodyDecoder, limit: int) -> bytes:
    """The first `limit` bytes of the decoded body; the rest is not waited for."""
    parts: list[bytes] = []
    size = 0
    async for raw in response.aiter_raw():
        parts.append(decoder.decode(raw, limit - size))
        size += len(parts[-1])
        if size >= limit:
            break
    return b"".join(parts)


def _judge(check: CheckSettings, response: httpx.Response, body: bytes, unknown: str) -> str | None:
    """Why a response is not as expected; None where it is."""
    code = response.status_code
    if not any(code in parse_codes(text) for text in check.expect):
        failure = f"status {code}, expected {' or '.join(check.expect)}"
        if response.has_redirect_location:
            # Without the query, which may hold secrets.
            target = response.headers["location"].partition("?")[0][:200]
            failure += f"; it redirects to {target} (follow_redirects is off)"
        return failure
    if unknown and (check.contains is not None or check.matches is not None):
        return f"the body is encoded as {unknown[:40]}, although identity was requested"
    try:
        text = body.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    if check.contains is not None and check.contains not in text:
        return f"the body does not contain {check.contains[:80]!r}"
    if check.matches is not None and re.search(check.matches, text) is None:
        return f"the body does not match {check.matches[:80]!r}"
    return None


def _describe(error: Exception, check: CheckSettings) -> str:
    if isinstance(error, httpx.TooManyRedirects):
        return f"more than {REDIRECTS} redirects"
    text = describe_http_error(error, check.timeout)
    return redact_secrets(text, [check.password, check.bearer, *check.headers.values()])[:300]
