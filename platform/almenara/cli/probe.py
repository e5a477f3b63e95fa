"""Checks of a running Almenara from outside, the way a browser uses it."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Origin

from almenara.errors import describe_error
from almenara.hookspecs import Finding

POLL_INTERVAL: Final = 0.5
TIMEOUT: Final = 10.0
MAX_BODY: Final = 65_536
FOREIGN_ORIGIN: Final = "https://foreign.invalid"
SIGNED_OUT: Final = 4401
"""The code that closes the WebSocket of a client that is not signed in."""
SIGN_IN_STATUSES: Final = (301, 302, 303, 307, 401, 403)
"""How a server that requires sign-in responds."""
EVENT_MARK: Final = "data-sequence"
"""The attribute of an event's row in a frame."""
CHECK_PROXIES: Final = "Check that every proxy in between forwards WebSockets."


class Response(msgspec.Struct, frozen=True):
    """A response; without one `status` is 0 and `text` is the reason."""

    status: int
    text: str


class KeepRedirect(urllib.request.HTTPRedirectHandler):
    """Returns redirects instead of following them."""

    def redirect_request(self, *_: object) -> None:
        """Return no further request."""
        return


async def probe_url(
    url: str, *, wait: float, expected: str | None, headers: Mapping[str, str]
) -> list[Finding]:
    """Return the findings about the Almenara at `url`.

    It has `wait` seconds to become ready. With `expected`, an event that contains this text must
    arrive over the WebSocket within that time. `headers` are sent with every request.

    Raises `ValueError` if `url` is not the URL of a web server.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is not the URL of a web server; write http://host:port")
    url = f"{parts.scheme}://{parts.netloc}"
    deadline = time.monotonic() + wait
    readiness = await _check_readiness(url, deadline)
    if readiness.verdict == "failed":
        return [readiness]
    pages = _judge_pages(url, await _fetch(f"{url}/events", headers), bool(headers))
    findings = [readiness, pages, await _check_foreign_origin(url, headers)]
    if pages.verdict == "ok" or expected is not None:
        seconds = max(deadline - time.monotonic(), TIMEOUT)
        findings.append(await _check_live_page(url, headers, expected, seconds))
    else:
        findings.append(await _check_sign_in(url))
    return findings


async def _check_readiness(url: str, deadline: float) -> Finding:
    while True:
        response = await _fetch(f"{url}/readyz", {})
        if response.status == 200:
            return Finding(check="readiness", verdict="ok", message=f"{url} is ready")
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(POLL_INTERVAL)
    if response.status == 0:
        return _failure(
            "readiness",
            f"no Almenara responds at {url}: {response.text}",
            "Start it, read its log, or correct the URL.",
        )
    return _failure(
        "readiness",
        f"{url} responds with status {response.status}: {response.text[:200]}",
        "Read its log. If the host is refused, add it to server.allowed_hosts.",
    )


def _judge_pages(url: str, page: Response, has_token: bool) -> Finding:
    if page.status == 200:
        return Finding(check="pages", verdict="ok", message="the events page is served")
    if page.status in SIGN_IN_STATUSES and not has_token:
        return Finding(
            check="pages",
            verdict="warning",
            message="sign-in is required, so the pages were not checked",
            remedy="Set --token-file to a file with an API token.",
        )
    return _failure(
        "pages",
        f"{url}/events responds with status {page.status}",
        "The token is not accepted; `almenara access create` creates one."
        if page.status in SIGN_IN_STATUSES
        else "Read its log.",
    )


async def _check_sign_in(url: str) -> Finding:
    """Check that a client that is not signed in receives nothing over the WebSocket."""
    required = Finding(check="live page", verdict="ok", message="the WebSocket requires sign-in")
    try:
        async with (
            connect(_live_url(url, ""), origin=Origin(url), open_timeout=TIMEOUT) as socket,
            asyncio.timeout(TIMEOUT),
        ):
            await socket.recv()
            reason = "the WebSocket sends frames to clients that are not signed in"
    except InvalidStatus as refusal:
        if refusal.response.status_code in SIGN_IN_STATUSES:
            return required
        reason = f"the WebSocket responds with status {refusal.response.status_code}"
    except ConnectionClosed as closed:
        if closed.rcvd is not None and closed.rcvd.code == SIGNED_OUT:
            return required
        reason = f"the WebSocket was closed: {describe_error(closed)}"
    except (OSError, InvalidHandshake, TimeoutError) as error:
        reason = f"the WebSocket does not open: {describe_error(error)}"
    return _failure("live page", reason, CHECK_PROXIES)


async def _check_foreign_origin(url: str, headers: Mapping[str, str]) -> Finding:
    try:
        async with connect(
            _live_url(url, ""),
            origin=Origin(FOREIGN_ORIGIN),
            additional_headers=dict(headers),
            open_timeout=TIMEOUT,
        ):
            reason = f"a page of {FOREIGN_ORIGIN} can open the WebSocket"
    except InvalidStatus as refusal:
        status = refusal.response.status_code
        if status == 403:
            return Finding(
                check="foreign origin", verdict="ok", message="pages of other sites are refused"
            )
        reason = f"the WebSocket responds to a page of another site with status {status}, not 403"
    except (OSError, InvalidHandshake, TimeoutError) as error:
        reason = f"the WebSocket does not respond: {describe_error(error)}"
    return _failure(
        "foreign origin",
        reason,
        "Check server.allowed_origins, and whether a proxy rewrites Host or Origin.",
    )


async def _check_live_page(
    url: str, headers: Mapping[str, str], expected: str | None, seconds: float
) -> Finding:
    awaited = "a frame" if expected is None else f"an event with {expected}"
    try:
        async with (
            asyncio.timeout(seconds),
            connect(
                _live_url(url, expected or ""),
                origin=Origin(url),
                additional_headers=dict(headers),
                open_timeout=TIMEOUT,
            ) as socket,
        ):
            async for frame in socket:
                if isinstance(frame, str) and (expected is None or EVENT_MARK in frame):
                    message = f"{awaited} arrived over the WebSocket"
                    return Finding(check="live page", verdict="ok", message=message)
            reason = "the WebSocket was closed"
    except InvalidStatus as refusal:
        reason = f"the WebSocket responds with status {refusal.response.status_code}"
    except TimeoutError:
        reason = f"{awaited} did not arrive within {seconds:.0f} s"
    except ConnectionClosed as closed:
        reason = f"the WebSocket was closed: {describe_error(closed)}"
    except (OSError, InvalidHandshake) as error:
        reason = f"the WebSocket does not open: {describe_error(error)}"
    remedy = "Check on the sources page that the source of the event runs."
    return _failure("live page", reason, remedy if expected else CHECK_PROXIES)


def _failure(check: str, message: str, remedy: str) -> Finding:
    return Finding(check=check, verdict="failed", message=message, remedy=remedy)


def _live_url(url: str, text: str) -> str:
    panel = "events" + ("?" + urlencode({"text": f'"{text}"'}) if text else "")
    return f"ws{url.removeprefix('http')}/live?{urlencode({'panel': panel})}"


async def _fetch(url: str, headers: Mapping[str, str]) -> Response:
    return await asyncio.to_thread(_fetch_blocking, url, headers)


def _fetch_blocking(url: str, headers: Mapping[str, str]) -> Response:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310
    opener = urllib.request.build_opener(KeepRedirect)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return Response(response.status, response.read(MAX_BODY).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        return Response(error.code, error.read(MAX_BODY).decode("utf-8", "replace").strip())
    except (urllib.error.URLError, OSError) as error:
        return Response(0, str(getattr(error, "reason", error)))
