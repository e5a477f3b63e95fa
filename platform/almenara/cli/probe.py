"""A running Almenara looked at from outside, as a browser would meet it."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Origin

from almenara.hookspecs import Finding

INTERVAL: Final = 0.5
PATIENCE: Final = 10.0
FOREIGN: Final = "https://foreign.invalid"
SIGNED_OUT: Final = 4401
"""The code that a WebSocket is closed with for who has to sign in."""
ASKING_TO_SIGN_IN: Final = (301, 302, 303, 307, 401, 403)
ROW: Final = "data-sequence"
"""What a frame holds that shows an event."""


class Answer:
    """What came back for a request; `status` is 0 where nothing did, and `text` then says why."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


class AsItIs(urllib.request.HTTPRedirectHandler):
    """Redirects are answers, and are looked at as they are."""

    def redirect_request(self, *_: object) -> None:
        return None


async def probe(
    url: str, *, wait: float, expected: str | None, headers: Mapping[str, str]
) -> list[Finding]:
    """What is to be said of the Almenara at `url`.

    It is given `wait` seconds to become ready. Where `expected` is given, an event that holds this
    text must come over the WebSocket within them. `headers` go with every request.

    Raises `ValueError` where `url` is not an address of a web server.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is no address of a web server; write http://host:port")
    url = f"{parts.scheme}://{parts.netloc}"
    end = time.monotonic() + wait
    ready = await _ready(url, end)
    if ready.verdict == "failed":
        return [ready]
    page = _page(url, await _get(f"{url}/events", headers), bool(headers))
    found = [ready, page, await _foreign(url, headers)]
    if page.verdict == "ok" or expected is not None:
        found.append(await _live(url, headers, expected, max(end - time.monotonic(), PATIENCE)))
    else:
        found.append(await _closed(url))
    return found


async def _ready(url: str, end: float) -> Finding:
    while True:
        answer = await _get(f"{url}/readyz", {})
        if answer.status == 200:
            return Finding(check="readiness", verdict="ok", message=f"{url} is ready")
        if time.monotonic() >= end:
            break
        await asyncio.sleep(INTERVAL)
    if answer.status == 0:
        return Finding(
            check="readiness",
            verdict="failed",
            message=f"no Almenara answers at {url}: {answer.text}",
            remedy="Start it, look at its log, or correct the address.",
        )
    return Finding(
        check="readiness",
        verdict="failed",
        message=f"{url} answers {answer.status}: {answer.text[:200]}",
        remedy="Look at its log; where the host is refused, name it in server.allowed_hosts.",
    )


def _page(url: str, page: Answer, signed_in: bool) -> Finding:
    if page.status == 200:
        return Finding(check="pages", verdict="ok", message="the events can be seen")
    if page.status in ASKING_TO_SIGN_IN and not signed_in:
        return Finding(
            check="pages",
            verdict="warning",
            message="they ask to sign in, so that only this was looked at",
            remedy="Give a token that may look, with --token-file.",
        )
    return Finding(
        check="pages",
        verdict="failed",
        message=f"{url}/events answers {page.status}",
        remedy="The token may not look; `almenara access create` makes one that may."
        if page.status in ASKING_TO_SIGN_IN
        else "Look at its log.",
    )


async def _closed(url: str) -> Finding:
    """Whether who has not signed in gets nothing over the WebSocket."""
    try:
        async with connect(_live_address(url, ""), origin=Origin(url),
                           open_timeout=PATIENCE) as socket, asyncio.timeout(PATIENCE):  # fmt: skip
            await socket.recv()
            why = "it shows frames to who has not signed in"
    except InvalidStatus as refusal:
        if refusal.response.status_code in ASKING_TO_SIGN_IN:
            return Finding(check="live page", verdict="ok", message="the WebSocket asks to sign in")
        why = f"the WebSocket answers {refusal.response.status_code}"
    except ConnectionClosed as closed:
        if closed.rcvd is not None and closed.rcvd.code == SIGNED_OUT:
            return Finding(check="live page", verdict="ok", message="the WebSocket asks to sign in")
        why = f"the WebSocket was closed: {_said(closed)}"
    except (OSError, InvalidHandshake, TimeoutError) as error:
        why = f"the WebSocket does not open: {_said(error)}"
    return Finding(
        check="live page",
        verdict="failed",
        message=why,
        remedy="Look whether every proxy on the way passes WebSockets on.",
    )


async def _foreign(url: str, headers: Mapping[str, str]) -> Finding:
    try:
        async with connect(_live_address(url, ""), origin=Origin(FOREIGN),
                           additional_headers=dict(headers), open_timeout=PATIENCE):  # fmt: skip
            pass
    except InvalidStatus as refusal:
        status = refusal.response.status_code
        if status == 403:
            return Finding(
                check="foreign origin", verdict="ok", message="a page of another site is refused"
            )
        why = f"the WebSocket answers {status} to a page of another site, not 403"
    except (OSError, InvalidHandshake, TimeoutError) as error:
        why = f"the WebSocket does not answer: {_said(error)}"
    else:
        why = f"a page of {FOREIGN} may open the WebSocket"
    return Finding(
        check="foreign origin",
        verdict="failed",
        message=why,
        remedy="Look at server.allowed_origins, and at whether a proxy rewrites Host or Origin.",
    )


async def _live(
    url: str, headers: Mapping[str, str], expected: str | None, patience: float
) -> Finding:
    awaited = "a frame" if expected is None else f"an event with {expected}"
    try:
        async with (
            asyncio.timeout(patience),
            connect(_live_address(url, expected or ""), origin=Origin(url),
                    additional_headers=dict(headers), open_timeout=PATIENCE) as socket,
        ):  # fmt: skip
            async for frame in socket:
                if isinstance(frame, str) and (expected is None or ROW in frame):
                    return Finding(
                        check="live page",
                        verdict="ok",
                        message=f"{awaited} came over the WebSocket",
                    )
            why = "the WebSocket was closed"
    except InvalidStatus as refusal:
        why = f"the WebSocket answers {refusal.response.status_code}"
    except TimeoutError:
        why = f"{awaited} did not come within {patience:.0f} s"
    except ConnectionClosed as closed:
        why = f"the WebSocket was closed: {_said(closed)}"
    except (OSError, InvalidHandshake) as error:
        why = f"the WebSocket does not open: {_said(error)}"
    return Finding(
        check="live page",
        verdict="failed",
        message=why,
        remedy="Look at the page Sources, whether what should tell of it runs."
        if expected
        else "Look whether every proxy on the way passes WebSockets on.",
    )


def _live_address(url: str, text: str) -> str:
    panel = "events" + ("?" + urlencode({"text": f'"{text}"'}) if text else "")
    return f"ws{url.removeprefix('http')}/live?{urlencode({'panel': panel})}"


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _get(address: str, headers: Mapping[str, str]) -> Answer:
    return await asyncio.to_thread(_fetch, address, headers)


def _fetch(address: str, headers: Mapping[str, str]) -> Answer:
    request = urllib.request.Request(address, headers=dict(headers))  # noqa: S310
    try:
        with urllib.request.build_opener(AsItIs).open(request, timeout=PATIENCE) as response:
            return Answer(response.status, response.read(65_536).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(65_536).decode("utf-8", "replace").strip())
    except (urllib.error.URLError, OSError) as error:
        return Answer(0, str(getattr(error, "reason", error)))
