"""`almenara alerts`: receivers of notifications, and tests of them."""

import json
from typing import Any, Final

import rich_click as click
from rich.console import Console
from rich.table import Table

from almenara.cli.common import CommandError, configuration_error, read_settings, run_async
from almenara.config import ConfigError, Settings, suggest
from almenara.plugins import PluginRegistry

CAPABILITIES: Final = ("edit", "thread", "acknowledge", "tracks_groups")


@click.group()
def alerts() -> None:
    """List the receivers of notifications, and test them."""


@alerts.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def receivers(context: click.Context, as_json: bool) -> None:
    """List the configured receivers, and the kinds that the installed plugins offer."""
    settings, plugins = read_settings(context), context.obj
    configured = _create_receivers(settings, plugins)
    kinds = plugins.notifier_kinds(settings)
    if as_json:
        data: dict[str, Any] = {
            "receivers": [
                {"name": name, "kind": receiver.kind.name, "fallback": receiver.fallback}
                for name, receiver in configured.items()
            ],
            "kinds": sorted(kinds),
        }
        click.echo(json.dumps(data, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("Receiver", "Kind", "Fallback"):
        table.add_column(title, header_style="bold", overflow="fold")
    for name, receiver in configured.items():
        table.add_row(name, receiver.kind.name, receiver.fallback or "-")
    if configured:
        Console().print(table)
    else:
        click.echo("No receiver is configured; add one to alerting.receivers.")
    if not kinds:
        click.echo("No installed plugin offers a kind of receiver.")
        return
    click.echo()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("Kind", "Name", "Can"):
        table.add_column(title, header_style="bold", overflow="fold")
    for name, kind in sorted(kinds.items()):
        able = [word for word in CAPABILITIES if getattr(kind.capabilities, word)]
        table.add_row(name, kind.title or name, ", ".join(able).replace("_", " ") or "-")
    Console().print(table)


@alerts.command("notify-test")
@click.argument("receiver")
@click.pass_context
def notify_test(context: click.Context, receiver: str) -> None:
    """Send a test notification to RECEIVER, with the settings and the network of this machine."""
    from almenara.alerting.notifications.testing import send_test
    from almenara.hookspecs import DeliveryError

    settings = read_settings(context)
    configured = _create_receivers(settings, context.obj)
    if receiver not in configured:
        hint = suggest(receiver, configured)
        raise CommandError(f"{receiver} is not a receiver of alerting.receivers; {hint}")
    try:
        run_async(lambda: send_test(configured[receiver], settings.server.url))
    except DeliveryError as error:
        raise CommandError(f"The receiver {receiver} did not accept the test: {error}") from None
    click.echo(f"The receiver {receiver} has accepted the test.")


def _create_receivers(settings: Settings, plugins: PluginRegistry) -> dict[str, Any]:
    from almenara.alerting.notifications.receivers import create_receivers

    try:
        return create_receivers(settings.alerting, plugins.notifier_kinds(settings))
    except ConfigError as error:
        raise configuration_error(error) from None
