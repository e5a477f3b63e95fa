"""`almenara bus`: move an installation between an embedded bus and a shared one."""

from pathlib import Path

import rich_click as click

from almenara.cli.common import (
    CONFIG_OPTION,
    CommandError,
    override_options,
    read_settings,
    run_async,
)
from almenara.errors import AlmenaraError, ConfigError
from almenara.plugins import PluginRegistry


@click.group()
def bus() -> None:
    """Move an installation between an embedded bus and a shared one."""


@bus.command()
@CONFIG_OPTION
@click.option(
    "--to",
    "target",
    type=click.Choice(["shared", "embedded"]),
    required=True,
    help="Bus that the history continues on.",
)
@click.pass_context
def copy(context: click.Context, config: Path | None, target: str) -> None:
    """Let the history in `storage.dir` continue on another bus. Stop Almenara first.

    The configuration has the shared bus (`bus.kind`) in both directions. With `--to shared`, its
    log is created behind the history; with `--to embedded`, set `bus.kind` to `embedded`
    afterwards. Sequences, and with them addresses of events, stay valid.
    """
    override_options(context, config=config)
    settings = read_settings(context)
    plugins: PluginRegistry = context.obj
    results: list[str] = []

    async def run() -> None:
        from almenara.bus.copy import copy_to_embedded, copy_to_shared

        shared_log = plugins.shared_log(settings)
        if shared_log is None:
            raise ConfigError("bus.kind is embedded; set it to the kind of the shared bus.")
        action = copy_to_shared if target == "shared" else copy_to_embedded
        results.append(await action(settings.storage.dir, shared_log))

    try:
        run_async(run)
    except (AlmenaraError, OSError, ValueError) as error:
        raise CommandError(f"The history cannot be moved: {error}") from None
    click.echo(results[0])
