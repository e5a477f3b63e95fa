"""Scrapes one page."""

import asyncio
from typing import Final

import httpx

from almenara.config import redact_secrets
from almenara.errors import Unavailable
from almenara.sdk.http import Resolver, create_client, describe_http_error
from almenara_prometheus.settings import TargetSettings

USER_AGENT: Final = "almenara-prometheus"
ACCEPT: Final = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
CONTENT_TYPES: Final = frozenset(
    ("", "text/plain", "application/openmetrics-text", "application/octet-stream")
)
"""What a page of metrics in the text format is sent as; some servers of files know no type."""
LONGEST_REASON: Final = 300


class ScrapeError(Unavailable):
    """A page could not be read; the text gives the reason."""


def open_client(target: TargetSettings, resolver: Resolver | None = None) -> httpx.AsyncClient:
    """Return a client for one target. Raises `ScrapeError` where its CA file cannot be read."""
    try:
        return create_client(
            target.url,
            ca=target.ca,
            resolver=resolver,
            timeout=target.timeout,
            follow_redirects=False,
        )
    except OSError as error:
        raise ScrapeError(str(error)) from None


async def scrape(client: httpx.AsyncClient, target: TargetSettings) -> bytes:
    """Return a page. Raises `ScrapeError`."""
    try:
        async with asyncio.timeout(target.timeout):
            return await _read_page(client, target)
    except ScrapeError:
        raise
    except (TimeoutError, httpx.TimeoutException):
        raise ScrapeError(f"no complete page within {target.timeout:g} s") from None
    except Exception as error:
        # A server can make the client raise anything; it is this target that is down and no other.
        text = describe_http_error(error, target.timeout)
        secrets = (target.bearer, *target.headers.values())
        raise ScrapeError(redact_secrets(text, secrets)[:LONGEST_REASON]) from None


async def _read_page(client: httpx.AsyncClient, target: TargetSettings) -> bytes:
    # The limit applies to what is read, and a small page must not expand to a large one.
    headers = httpx.Headers(
        {"accept-encoding": "identity", "user-agent": USER_AGENT, "accept": ACCEPT}
    )
    headers.update(
        {name.encode(): value.reveal().encode() for name, value in target.headers.items()}
    )
    if target.bearer is not None:
        headers.update({b"authorization": f"Bearer {target.bearer.reveal()}".encode()})
    parts: list[bytes] = []
    size = 0
    async with client.stream("GET", target.url, headers=headers) as response:
        _check_head(response)
        async for part in response.aiter_bytes():
            size += len(part)
            if size > target.body_limit:
                raise ScrapeError(
                    f"its page is longer than {target.body_limit:,} bytes (body_limit)"
                )
            parts.append(part)
    return b"".join(parts)


def _check_head(response: httpx.Response) -> None:
    """Check status and headers of a response. Raises `ScrapeError`."""
    if response.status_code != 200:
        raise ScrapeError(f"it answers {response.status_code}, expected 200")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ScrapeError("its page is compressed although identity was requested")
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in CONTENT_TYPES:
        raise ScrapeError(
            f"it sends {content_type[:100]}, expected text/plain; check that the URL is that of the"
            " metrics and needs no sign-in"
        )
