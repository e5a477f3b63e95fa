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
from almenara.config import Secret
from almenara.errors import AlmenaraError, ConfigError
from almenara.plugins import PluginRegistry
from almenara.shared_log import SharedLog


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
    log is created behind the history, with a snapshot from which further replicas start. With `--to
    embedded`, set `bus.kind` to `embedded` afterwards. Sequences, and with them addresses of
    events, stay valid.
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
        folder = settings.storage.dir
        if target == "shared":
            result = await copy_to_shared(folder, shared_log, settings.bus)
            results.append(result.description)
            # What was deleted since must not be shared again.
            if settings.bus.secret is not None and not result.is_done_before:
                results.append(await share_stored(folder, shared_log, settings.bus.secret))
        else:
            results.append(await copy_to_embedded(folder, shared_log))

    try:
        run_async(run)
    except (AlmenaraError, OSError, ValueError) as error:
        raise CommandError(f"The history cannot be moved: {error}") from None
    for result in results:
        click.echo(result)


async def share_stored(folder: Path, shared_log: SharedLog, secret: Secret) -> str:
    """Share tokens, sessions and what users have saved in the folder; return the result in a
    sentence."""
    from almenara.security.shared_values import read_values
    from almenara.security.store import AccessStore
    from almenara.state_store.file import FileStateStore
    from almenara.state_store.shared import share_values
    from almenara.web.saved_dashboards import SavedDashboard
    from almenara.web.saved_filters import SavedFilter
    from almenara.web.saved_items import open_file

    values = read_values(AccessStore(folder))
    saved = FileStateStore(open_file(folder))
    for prefix in (SavedDashboard.PREFIX, SavedFilter.PREFIX):
        for key, stored in (await saved.list_values(prefix)).items():
            values[key] = stored.value
    async with shared_log.connect() as session:
        count = await share_values(values, session.state, secret.reveal())
    return f"Replicas share {count} further tokens, sessions, dashboards and filters of {folder}."
