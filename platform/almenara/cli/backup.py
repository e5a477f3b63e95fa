"""`almenara backup` and `almenara restore`: copies of the databases, made while they are in use."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import rich_click as click

from almenara.bus.backup import copy_database, copy_file
from almenara.bus.backup_folder import (
    BackupError,
    BackupFile,
    BackupFolder,
    BackupList,
    check_file,
    read_list,
    sync,
)
from almenara.bus.backup_history import back_up_history, restore_history
from almenara.bus.folder import FolderLock, check_folder, prepare_folder, set_aside
from almenara.bus.schema import VERSION, check_version
from almenara.bus.writer_thread import DATABASE
from almenara.cli.common import (
    CONFIG_OPTION,
    CommandError,
    copy_error,
    override_options,
    read_settings,
)
from almenara.errors import AlmenaraError
from almenara.state import checkpoints, sample_schema
from almenara.state.sample_backup import back_up_samples, restore_samples
from almenara.web import saved_items

OTHERS: Final = (sample_schema.DATABASE, checkpoints.DATABASE, saved_items.FILE)
OF_HISTORY: Final = (DATABASE, sample_schema.DATABASE, checkpoints.DATABASE)
"""What follows the log of one history, and means nothing beside another one."""
RESTORING: Final = ".restoring"
REPLACED: Final = "replaced"
MAGIC: Final = b"SQLite format 3\0"
"""The first bytes of every SQLite database."""
REMEDY: Final = "name a directory or a file that `almenara backup` wrote"
MEBIBYTE: Final = 1024**2


@click.command()
@CONFIG_OPTION
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Compare the checksums of the files that the directory has already. This is the default.",
)
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_context
def backup(context: click.Context, config: Path | None, verify: bool, target: Path) -> None:
    """Copy the databases to TARGET, also while Almenara runs.

    TARGET is an existing directory, for the history, the samples of charts, the past of resources
    and dashboards and filters made in the browser. A further backup into it copies what is new;
    older events are copied once. The directory has the last complete backup at any moment.

    Or TARGET is a new file, for a whole copy of the history alone.

    `almenara restore` restores both.
    """
    override_options(context, config=config)
    directory = read_settings(context).storage.dir
    if (problem := check_folder(directory)) is not None:
        raise CommandError(f"The backup failed. {problem}")
    try:
        if target.is_dir():
            _back_up(directory, target, verify)
        else:
            click.echo(f"{target} contains {copy_database(directory, target):,} events.")
    except (AlmenaraError, OSError, sqlite3.Error) as error:
        raise copy_error("backup", error, directory, target) from None


def _back_up(directory: Path, target: Path, verify: bool) -> None:
    if (target / DATABASE).exists():
        raise FileExistsError(f"{target} has databases; name a directory for backups alone")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with BackupFolder(target) as folder:
        # They are copied before the history: what they miss of it, they read from it after a
        # restore.
        files = [
            file
            for name in OTHERS
            if (directory / name).exists()
            for file in _copy_other(directory, folder, name, verify)
        ]
        history = back_up_history(directory, folder, verify=verify)
        files += history.files
        folder.commit(
            BackupList(schema=VERSION, created=created, events=history.events, files=files)
        )
    copied = sum(file.size for file in folder.copied)
    total = sum(file.size for file in files)
    click.echo(
        f"{target} contains {history.events:,} events. Copied {copied / MEBIBYTE:,.1f} MiB;"
        f" {(total - copied) / MEBIBYTE:,.1f} MiB were there already."
    )
    if history.damaged_blocks:
        click.echo(
            f"{history.damaged_blocks} blocks of events are damaged in the database and were copied"
            " so; run `almenara storage check`.",
            err=True,
        )


def _copy_other(directory: Path, folder: BackupFolder, name: str, verify: bool) -> list[BackupFile]:
    if name == sample_schema.DATABASE:
        return back_up_samples(directory, folder, verify=verify)
    stem = Path(name).stem
    unfinished = folder.unfinished(stem)
    unfinished.unlink()
    copy_file(directory / name, unfinished, lambda _: None)
    return [folder.add(unfinished, stem, name)]


@click.command()
@CONFIG_OPTION
@click.option("--replace", is_flag=True, help="Rename databases that exist; otherwise it fails.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.pass_context
def restore(context: click.Context, config: Path | None, replace: bool, source: Path) -> None:
    """Restore a backup into `storage.dir`. Almenara must not be running.

    SOURCE is a directory or a file that `almenara backup` wrote, or a directory with copies of the
    databases. All checksums are compared. The databases have their names once all of them are
    complete; with `--replace`, those that exist are renamed to `NAME.replaced` then. Dashboards and
    filters made in the browser stay where the backup has none.
    """
    override_options(context, config=config)
    directory = read_settings(context).storage.dir
    try:
        prepare_folder(directory)
        lock = FolderLock.acquire(directory)
        try:
            # A restore that was killed may have left some.
            _remove_unfinished(directory)
            events = _restore(directory, source, replace)
        finally:
            _remove_unfinished(directory)
            lock.release()
    except (AlmenaraError, OSError, sqlite3.Error) as error:
        raise copy_error("restore", error, source, directory) from None
    click.echo(f"{directory / DATABASE} contains {events:,} events. Start Almenara.")


def _restore(directory: Path, source: Path, replace: bool) -> int:
    listed = read_list(source) if source.is_dir() else None
    copies = _find_copies(source) if listed is None else {}
    names = [*copies] if listed is None else [*_list_others(listed), DATABASE]
    existing = [
        name
        for name in (DATABASE, *OTHERS)
        if any((directory / f"{name}{ending}").exists() for ending in ("", "-wal", "-shm"))
    ]
    replaced = [name for name in existing if name in names or name in OF_HISTORY]
    if replaced and not replace:
        raise FileExistsError(
            f"{directory} has {', '.join(replaced)} already; add --replace to rename them"
        )
    if listed is None:
        events = _restore_copies(directory, copies)
    else:
        events = _restore_listed(directory, source, listed)
    for name in names:
        sync(_restoring(directory, name))
    for name in existing:
        note = "" if name in names else "; it is not in the backup"
        if name in replaced:
            renamed = set_aside(directory, name, REPLACED)
            click.echo(f"{name} is renamed to {renamed.name}{note}.")
        else:
            click.echo(f"{name} stays{note}.")
    # The history comes last: without it, a restore that was killed here is noticed.
    for name in names:
        _restoring(directory, name).rename(directory / name)
    sync(directory)
    return events


def _list_others(listed: BackupList) -> dict[str, BackupFile]:
    return {file.restores: file for file in listed.files if file.restores in OTHERS}


def _restore_listed(directory: Path, source: Path, listed: BackupList) -> int:
    """Restore the databases of a list; return the events of the history."""
    for name, file in _list_others(listed).items():
        target = _restoring(directory, name)
        if name == sample_schema.DATABASE:
            restore_samples(source, listed, target)
        else:
            copy_file(check_file(source, file), target, lambda _: None, immutable=True)
    return restore_history(source, listed, _restoring(directory, DATABASE), _report_blocks)


def _find_copies(source: Path) -> dict[str, Path]:
    """Return the whole databases of a backup by their names; that of the history is the last."""
    if source.is_dir() and not (source / DATABASE).exists():
        raise BackupError(
            f"{source} has no backup; name the directory that `almenara backup` wrote"
        )
    if source.is_file() and not _is_database(source):
        raise BackupError(f"{source} is not a database; {REMEDY}")
    files = {DATABASE: source / DATABASE if source.is_dir() else source}
    if source.is_dir():
        files = {name: source / name for name in OTHERS if (source / name).exists()} | files
    return files


def _restore_copies(directory: Path, files: dict[str, Path]) -> int:
    """Copy whole databases; return the events of the history."""
    for name, path in files.items():
        # A copy of a folder may have what was not in the database yet beside it.
        has_log = path.with_name(f"{path.name}-wal").exists()
        copy_file(path, _restoring(directory, name), lambda _: None, immutable=not has_log)
    with closing(sqlite3.connect(_restoring(directory, DATABASE))) as connection:
        return _count_events(connection, files[DATABASE])


def _count_events(connection: sqlite3.Connection, path: Path) -> int:
    check_version(connection, path)
    try:
        (events,) = connection.execute("SELECT events FROM position").fetchone()
    except sqlite3.OperationalError:
        raise BackupError(f"{path} is a database without a history; {REMEDY}") from None
    return int(events)


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _restoring(directory: Path, name: str) -> Path:
    return directory / f"{name}{RESTORING}"


def _remove_unfinished(directory: Path) -> None:
    for unfinished in directory.glob(f"*{RESTORING}*"):
        unfinished.unlink()


def _report_blocks(restored: int, total: int) -> None:
    click.echo(f"{restored:,} of {total:,} blocks of events are restored.")
