"""`almenara storage`: check the databases, and repair a damaged one."""

import sqlite3
from pathlib import Path

import rich_click as click

from almenara.bus.check import check_database, repair_database
from almenara.bus.compare import compare_databases
from almenara.bus.writer_thread import DATABASE
from almenara.cli.common import CONFIG_OPTION, CommandError, override_options, read_settings
from almenara.errors import AlmenaraError, describe_error
from almenara.state.check import check_state


@click.group()
def storage() -> None:
    """Check the databases, and repair a damaged one."""


@storage.command()
@CONFIG_OPTION
@click.option(
    "--repair",
    is_flag=True,
    help="Write what is readable into a new database. Almenara must not be running.",
)
@click.option(
    "--compare",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Compare with the database of another replica, in this folder. Stop both before.",
)
@click.pass_context
def check(context: click.Context, config: Path | None, repair: bool, compare: Path | None) -> None:
    """Read every row of the databases and report damaged ones.

    Almenara may be running. The exit status is 1 if something is damaged.

    With `--compare`, it is reported whether two replicas of one bus store the same: signals,
    sequences, resources, and what recognizes duplicates. Ages of retention may differ by seconds.

    With `--repair`, everything readable of the history is written into a new database; the damaged
    file stays beside it, and the signals that are lost are named. Samples and checkpoints need no
    repair: what is damaged of them is left out.
    """
    override_options(context, config=config)
    settings = read_settings(context).storage
    folder = settings.dir
    try:
        if compare is not None:
            differences = compare_databases(folder, compare, settings.retention_rules)
            for text in differences or ["Both replicas store the same."]:
                click.echo(text)
            if differences:
                raise SystemExit(1)
            return
        report = check_database(folder)
        click.echo(report.describe())
        others = check_state(folder)
        for other in others:
            click.echo(other.describe())
        if report.is_intact:
            if all(other.is_intact for other in others):
                return
        elif repair:
            report, damaged = repair_database(folder)
            click.echo(
                f"Repaired: the new database contains {report.events:,} events. The damaged file is"
                f" {damaged}."
            )
            return
    except (AlmenaraError, OSError) as error:
        raise CommandError(str(error)) from None
    except sqlite3.Error as error:
        # Not even the schema can be read.
        raise CommandError(
            f"Nothing of a database can be read: {describe_error(error)}. Restore the last backup;"
            f" without one, move {DATABASE} out of the folder, and Almenara starts with an empty"
            " history."
        ) from None
    raise SystemExit(1)
