"""`almenara alerts`: rules and receivers, and tests of them."""

import contextlib
import json
import sqlite3
from typing import Any, Final

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table

from almenara.cli.common import (
    CommandError,
    configuration_error,
    printable_text,
    read_settings,
    run_async,
)
from almenara.config import ConfigError, Settings, suggest
from almenara.errors import AlmenaraError
from almenara.plugins import PluginRegistry

DATABASE: Final = "almenara.db"
MAX_EPISODES: Final = 100
CAPABILITIES: Final = ("edit", "thread", "acknowledge", "tracks_groups")


@click.group()
def alerts() -> None:
    """List alert rules and the receivers of notifications, and test them."""


@alerts.command()
@click.pass_context
def rules(context: click.Context) -> None:
    """List the rules of the configuration and of plugins."""
    settings = read_settings(context)
    for rule in _read_rules(context.obj, settings).rules.values():
        origin = rule.plugin or "configuration"
        click.echo(f"{rule.name:<32} {rule.settings.severity:<6} {origin}")
    if not settings.alerting.enabled:
        click.echo("Rules are not evaluated: set alerting.enabled to true.", err=True)


@alerts.command()
@click.argument("rule")
@click.option("--since", default="24h", show_default=True, help="RFC 3339, or `15m`, `2h`, `7d`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_context
def test(context: click.Context, rule: str, since: str, as_json: bool) -> None:
    """Replay history through RULE and print when its alerts would have fired.

    It reads the database of `storage.dir`; Almenara may be running. Nothing is published. Rules of
    the configuration are tried as they are in the file, so a rule can be tried before it is used.
    """
    from almenara.alerting.replay import read_log, replay
    from almenara.bus.schema import connect
    from almenara.history import Filter
    from almenara.signals import now

    settings = read_settings(context)
    known = _read_rules(context.obj, settings)
    if rule not in known.rules:
        raise CommandError(f"No rule is named {rule!r}; {suggest(rule, known.rules)}")
    try:
        start = Filter.from_query({"since": since}).since or 0
    except ValueError as error:
        raise CommandError(str(error)) from None
    path = settings.storage.dir / DATABASE
    if not path.exists():
        raise CommandError(f"{path} does not exist; check storage.dir")
    try:
        with contextlib.closing(connect(path, writable=False)) as connection:
            one = known.with_rules([known.rules[rule]])
            result = replay(one, read_log(connection, start), start, now())
    except (AlmenaraError, OSError, sqlite3.Error) as error:
        raise CommandError(str(error)) from None
    if as_json:
        for episode in result.episodes:
            click.echo(msgspec.json.encode(episode).decode())
    else:
        _print(rule, since, result)
    if result.failures:
        raise CommandError(f"The rule failed: {result.failures[0]}")


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


def _print(rule: str, since: str, result: Any) -> None:
    from almenara.signals import format_time

    lines = [
        (format_time(episode.fired)[:19] + "Z", _describe_end(episode), episode.summary)
        for episode in result.episodes[:MAX_EPISODES]
    ]
    width = max([16, *(len(lasted) for _, lasted, _ in lines)])
    for fired, lasted, summary in lines:
        click.echo(printable_text(f"{fired}  {lasted:<{width}} {summary}"))
    more = len(result.episodes) - MAX_EPISODES
    if more > 0:
        click.echo(f"… and {more:,} more")
    groups = len({episode.alert for episode in result.episodes})
    never = f" {result.pending - len(result.episodes)} times it was pending and did not fire."
    times = "once" if len(result.episodes) == 1 else f"{len(result.episodes):,} times"
    alerts = "1 alert" if groups == 1 else f"{groups:,} alerts"
    click.echo(
        f"{rule} would have fired {times} for {alerts} since {since};"
        f" {result.records:,} signals were read."
        + (never if result.pending > len(result.episodes) else "")
    )


def _describe_end(episode: Any) -> str:
    """How long an alert was active, or what it still is."""
    from almenara.alerting.formats import format_duration
    from almenara.units import SECOND

    if episode.resolved is not None:
        lasted = f"for {format_duration((episode.resolved - episode.fired) / SECOND)}"
        return f"{lasted}, flapping" if episode.has_flapped else lasted
    if episode.status in ("firing", "flapping", "unknown"):
        return f"still {episode.status}"
    # Of a person, or of what it depends on: the condition holds all the same.
    return f"still firing, {episode.status}"


def _read_rules(plugins: PluginRegistry, settings: Settings) -> Any:
    from almenara.alerting.service import read_rules

    try:
        return read_rules(settings, plugins)
    except ConfigError as error:
        raise configuration_error(error) from None
