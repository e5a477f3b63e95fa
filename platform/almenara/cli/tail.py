"""`almenara tail`: follow the events of a running Almenara in the terminal."""

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import rich_click as click
from rich.console import Console
from rich.text import Text

from almenara.cli.common import CommandError, read_settings, run_async
from almenara.cli.event_filter import EVENT_OPTIONS, SHARED_OPTIONS, add_options
from almenara.terminal import escape_control_characters, escape_json_control_characters

TOKEN_VARIABLE: Final = "ALMENARA_TOKEN"  # noqa: S105
POLL_INTERVAL: Final = 0.5
REQUEST_TIMEOUT: Final = 10.0
PAGE_SIZE: Final = 500
MAX_DATA_CHARACTERS: Final = 500
SEVERITY_STYLES: Final = {
    "DEBUG": "dim",
    "INFO": "cyan",
    "WARN": "yellow",
    "ERROR": "red",
    "FATAL": "bold red reverse",
}

PrintEvent = Callable[[dict[str, Any], str], None]
"""Prints an event, which it receives decoded and as JSON."""


@click.command()
@click.option("--url", help="URL of a running Almenara. The default is this machine's server.port.")
@add_options({**EVENT_OPTIONS, **SHARED_OPTIONS})
@click.option("-n", "--lines", default=10, show_default=True, help="Number of past events.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option("--follow/--no-follow", default=True, help="Wait for new events.")
@click.pass_context
def tail(context: click.Context, /, **options: Any) -> None:
    """Follow events in the terminal, with the filters of the events page.

    The events come from a running Almenara. If it requires sign-in, set `ALMENARA_TOKEN` to an API
    token; `almenara access create` creates one.
    """
    settings = read_settings(context)
    url = options.pop("url") or f"http://127.0.0.1:{settings.server.port}"
    lines, as_json, follow = (options.pop(name) for name in ("lines", "as_json", "follow"))
    filters = {name: value for name, value in options.items() if value}
    console = Console()

    def print_event(event: dict[str, Any], line: str) -> None:
        if as_json:
            click.echo(escape_json_control_characters(line))
        else:
            console.print(format_event(event), soft_wrap=True)

    token = os.environ.get(TOKEN_VARIABLE)
    try:
        run_async(lambda: follow_events(url, filters, lines, follow, print_event, token))
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from None


async def follow_events(
    url: str,
    filters: Mapping[str, str],
    lines: int,
    follow: bool,
    print_event: PrintEvent,
    token: str | None = None,
) -> None:
    """Print the last `lines` events and, with `follow`, new ones until cancelled.

    Raises `ValueError` with the server's reason if it refuses the request, and `OSError` if no
    server responds.
    """
    url = url.rstrip("/")
    query = {**filters, "limit": str(max(lines, 1))}
    page = await asyncio.to_thread(_fetch_events, url, token, query)
    events = page["events"][:lines] if lines else []
    for event in reversed(events):
        print_event(event, msgspec.json.encode(event).decode())
    newest = page["events"][0]["sequence"] if page["events"] else 0
    while follow:
        await asyncio.sleep(POLL_INTERVAL)
        query = {**filters, "after": str(newest), "limit": str(PAGE_SIZE)}
        try:
            page = await asyncio.to_thread(_fetch_events, url, token, query)
        except OSError:
            # The server may be restarting; the next page continues after `newest`.
            continue
        for event in reversed(page["events"]):
            print_event(event, msgspec.json.encode(event).decode())
            newest = event["sequence"]


def _fetch_events(url: str, token: str | None, query: Mapping[str, str]) -> Any:
    address = f"{url}/api/events?{urlencode(query)}"
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"{url} is not the URL of a web server; write http://host:port")
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(address, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as response:  # noqa: S310  # nosec B310 # http and https only
            return msgspec.json.decode(response.read())
    except urllib.error.HTTPError as error:
        body = error.read()
        try:
            detail = msgspec.json.decode(body)["detail"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            detail = f"{url} responded with status {error.code}"
        if error.code == HTTPStatus.UNAUTHORIZED:
            detail = (
                f"{url} requires sign-in: {detail} Set {TOKEN_VARIABLE} to an API token, which"
                " `almenara access create NAME` creates."
            )
        raise ValueError(detail) from None
    except urllib.error.URLError as error:
        raise OSError(
            f"no Almenara responds at {url}: {error.reason}. Start it, or set --url."
        ) from None


def format_event(event: dict[str, Any]) -> Text:
    """Return an event of the API as a line for the terminal."""
    severity = escape_control_characters(str(event["severity"]))
    time = escape_control_characters(str(event["time"] or event["timestamp"]))
    data = msgspec.json.encode(event["data"]).decode()[:MAX_DATA_CHARACTERS]
    line = Text(overflow="fold")
    line.append(f"{time[11:23]} ", style="dim")
    line.append(f"{severity:5} ", style=SEVERITY_STYLES.get(severity, ""))
    line.append(f"{escape_control_characters(event['type'])} ", style="bold")
    line.append(f"{escape_control_characters(event['origin'])} ", style="magenta")
    if event["subject"]:
        line.append(f"{escape_control_characters(event['subject'])} ", style="blue")
    line.append(escape_control_characters(data), style="dim")
    return line
