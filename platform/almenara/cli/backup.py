"""`almenara backup`: copy the database of the bus while it is in use."""

import sqlite3
from pathlib import Path

import rich_click as click

from almenara.bus.backup import copy_database
from almenara.bus.folder import check_folder
from almenara.bus.storage_errors import describe_open_error
from almenara.cli.common import CONFIG_OPTION, CommandError, override_options, read_settings
from almenara.errors import AlmenaraError, describe_error


@click.command()
@CONFIG_OPTION
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def backup(context: click.Context, config: Path | None, file: Path) -> None:
    """Copy the database of the bus to FILE, also while Almenara runs.

    To restore it: stop Almenara, replace `almenara.db` in `storage.dir` with the copy, delete
    `almenara.db-wal` and `almenara.db-shm` there, and start Almenara.
    """
    override_options(context, config=config)
    directory = read_settings(context).storage.dir
    if (problem := check_folder(directory)) is not None:
        raise CommandError(f"The backup failed. {problem}")
    try:
        events = copy_database(directory, file)
    except sqlite3.Error as error:
        raise CommandError(f"The backup failed. {describe_open_error(error, directory)}") from None
    except (AlmenaraError, OSError) as error:
        raise CommandError(f"The backup failed: {describe_error(error)}") from None
    click.echo(f"{file} contains {events} events.")
