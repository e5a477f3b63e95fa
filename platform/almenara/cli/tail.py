"""Events of a running Almenara, one after the other, for the terminal."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

INTERVAL: Final = 0.5
PATIENCE: Final = 10.0
PAGE: Final = 500

Show = Callable[[dict[str, Any], str], None]


async def tail(url: str, wanted: Mapping[str, str], lines: int, follow: bool, show: Show,
               token: str | None = None) -> None:  # fmt: skip
    """Show the last `lines` events, and then those to come, until cancelled.

    `token` is an API token, where people sign in.

    Raises `ValueError` with what the server says of a filter, and `OSError` where there is none.
    """
    url = url.rstrip("/")
    page = await asyncio.to_thread(_get, url, token, {**wanted, "limit": str(max(lines, 1))})
    events = page["events"][:lines] if lines else []
    for event in reversed(events):
        show(event, msgspec.json.encode(event).decode())
    newest = page["events"][0]["sequence"] if page["events"] else 0
    while follow:
        await asyncio.sleep(INTERVAL)
        try:
            page = await asyncio.to_thread(
                _get, url, token, {**wanted, "after": str(newest), "limit": str(PAGE)}
            )
        except OSError:
            # It may be restarting; what it says then begins where we are.
            continue
        for event in reversed(page["events"]):
            show(event, msgspec.json.encode(event).decode())
            newest = event["sequence"]


def _get(url: str, token: str | None, parameters: Mapping[str, str]) -> Any:
    address = f"{url}/api/events?{urlencode(parameters)}"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{url} is no address of a web server; write http://host:port")
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(address, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310  # nosec B310 # http and https only
            return msgspec.json.decode(response.read())
    except urllib.error.HTTPError as error:
        body = error.read()
        try:
            detail = msgspec.json.decode(body)["detail"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            detail = f"{url} answered {error.code}"
        raise ValueError(detail) from None
    except urllib.error.URLError as error:
        raise OSError(
            f"no Almenara answers at {url}: {error.reason}. Start it, or name it with --url."
        ) from None
