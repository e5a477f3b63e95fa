"""`almenara streams` and `almenara publish`.

Every command line loads these definitions, so what connects to NATS is imported by the command that
runs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click
import msgspec

from almenara.hookspecs import SharedLog
from almenara_nats.settings import NatsSettings, is_subject


def parse_header_options(options: Sequence[str]) -> dict[str, str]:
    """Return the headers of `--header NAME=VALUE`. Raises `click.ClickException`."""
    headers = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise click.ClickException(f"--header {option!r} is not NAME=VALUE")
        headers[name] = value
    return headers


def commands(
    read_settings: Callable[[], Any], read_shared_log: Callable[[], SharedLog | None]
) -> Sequence[click.Command]:
    """The commands of the plugin."""

    @click.group()
    def streams() -> None:
        """Manage the streams of the configuration."""

    @streams.command()
    def apply() -> None:
        """Create or update the streams in plugins.nats.apply, and that of the bus."""
        from almenara_nats.actions import apply_all, run_action
        from almenara_nats.bus_log import JetStreamLog

        shared_log = read_shared_log()
        bus = shared_log if isinstance(shared_log, JetStreamLog) else None
        if not read_settings().apply and bus is None:
            raise click.ClickException(
                "No stream is configured; list them under plugins.nats.apply, each with a name and"
                " its subjects."
            )
        for change in run_action(partial(apply_all, bus=bus), read_settings):
            click.echo(f"{change.name}: {change.result}")

    @streams.command()
    def forget() -> None:
        """Delete the consumers of this installation, before it is uninstalled."""
        from almenara_nats.actions import forget_streams, run_action

        changes = run_action(forget_streams, read_settings)
        if not changes:
            click.echo(f"No stream has the consumer {read_settings().durable!r}.")
        for change in changes:
            click.echo(f"{change.name}: {change.result}")
        if any(change.result.startswith("kept") for change in changes):
            raise click.exceptions.Exit(1)

    @click.command()
    @click.argument("subject")
    @click.argument("payload", metavar="JSON")
    @click.option("--header", "-H", multiple=True, metavar="NAME=VALUE", help="Add a header.")
    @click.option("--raw", is_flag=True, help="Publish the text even if it is not JSON.")
    def publish(subject: str, payload: str, header: tuple[str, ...], raw: bool) -> None:
        """Publish a test event to a NATS subject."""
        from almenara_nats.actions import publish_message, run_action

        try:
            msgspec.json.decode(payload)
        except (msgspec.MsgspecError, RecursionError) as error:
            if not raw:
                raise click.ClickException(
                    f"The payload is not JSON: {error}. Quote it for the shell, or publish it"
                    " unchanged with --raw."
                ) from None
        if not is_subject(subject):
            raise click.ClickException(
                f"{subject!r} is not a subject to publish to; write words separated by dots,"
                " without wildcards and spaces, such as orders.created"
            )
        headers = parse_header_options(header)

        async def send(settings: NatsSettings) -> str:
            return await publish_message(settings, subject, payload.encode(), headers)

        click.echo(run_action(send, read_settings))

    return [streams, publish]
