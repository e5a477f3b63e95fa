"""`almenara backup`: copy the databases while they are in use."""

import sqlite3
from pathlib import Path

import rich_click as click

from almenara.bus.backup import copy_database, copy_file
from almenara.bus.folder import check_folder
from almenara.bus.storage_errors import describe_open_error
from almenara.bus.writer_thread import DATABASE
from almenara.cli.common import CONFIG_OPTION, CommandError, override_options, read_settings
from almenara.errors import AlmenaraError, describe_error
from almenara.state import checkpoints, sample_schema
from almenara.web import saved_dashboards


@click.command()
@CONFIG_OPTION
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_context
def backup(context: click.Context, config: Path | None, target: Path) -> None:
    """Copy the databases to TARGET, also while Almenara runs.

    TARGET is a directory, for the history, the samples of charts, the past of resources and
    dashboards made in the browser; or a new file, for the history alone.

    To restore: stop Almenara, replace the files in `storage.dir` with the copies, delete the files
    there that end in `-wal` and `-shm`, and start Almenara.
    """
    override_options(context, config=config)
    directory = read_settings(context).storage.dir
    if (problem := check_folder(directory)) is not None:
        raise CommandError(f"The backup failed. {problem}")
    is_file = not target.is_dir()
    file = target if is_file else target / DATABASE
    try:
        copied = [] if is_file else _copy_others(directory, target)
        events = copy_database(directory, file)
    except sqlite3.Error as error:
        raise CommandError(f"The backup failed. {describe_open_error(error, directory)}") from None
    except (AlmenaraError, OSError) as error:
        raise CommandError(f"The backup failed: {describe_error(error)}") from None
    click.echo(f"{file} contains {events} events.")
    for path in copied:
        click.echo(f"{path} is complete.")


def _copy_others(directory: Path, target: Path) -> list[Path]:
    """Copy the databases that exist besides that of the bus.

    They are copied before it: what they miss of its copy, they read from it after a restore.
    """
    names = [
        name
        for name in (sample_schema.DATABASE, checkpoints.DATABASE, saved_dashboards.FILE)
        if (directory / name).exists()
    ]
    for name in (DATABASE, *names):
        if (target / name).exists():
            raise FileExistsError(f"{target / name} exists already; name an empty directory")
    for name in names:
        copy_file(directory / name, target / name, lambda _: None)
    return [target / name for name in names]
