"""Errors of the disk and of SQLite, in words for the person who runs Almenara."""

import errno
import os
import re
import sqlite3
from pathlib import Path
from typing import Final

from almenara.bus.disk_reserve import MARGIN, DiskReserve
from almenara.errors import AlmenaraError, Unavailable, describe_error

DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
DAMAGED_SCHEMA: Final = re.compile(
    r"no such (?:table|column|index|module|function|collation)|malformed database schema"
    r"|has no column|already exists|duplicate column|vtable constructor failed"
    r"|unrecognized (?:token|option|column option)|syntax error|Could not decode to UTF-8"
    r"|invalid fts5 file format"
)
"""Messages of SQLite for a schema that is not the one that Almenara has written."""
FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)
PASSING_ERRNOS: Final = (*FULL_ERRNOS, errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT)
PASSING: Final = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_NOMEM")
OF_ONE_BATCH: Final = (
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.NotSupportedError,
)
"""Errors that mean a value could not be bound, and not that the disk fails."""


class StorageError(AlmenaraError):
    """The storage folder cannot be used at all; the text has the reason and a remedy."""


class DamagedDatabaseError(Unavailable):
    """The database file is damaged; the text names what still works and a remedy."""


def is_damage(error: BaseException) -> bool:
    """Whether an error means that the content of the database is wrong."""
    if isinstance(error, sqlite3.DatabaseError) and DAMAGED_SCHEMA.search(str(error)):
        # Statements are constant, so it is the stored schema that has changed.
        return True
    return _name(error).startswith(DAMAGED)


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full."""
    return _name(error) == "SQLITE_FULL" or (
        isinstance(error, OSError) and error.errno in FULL_ERRNOS
    )


def may_need_space(error: BaseException) -> bool:
    """Whether opening the database may succeed with more space: a full disk can keep SQLite from
    opening its write-ahead log."""
    return is_full(error) or _name(error) in ("SQLITE_CANTOPEN", "SQLITE_IOERR_SHMSIZE")


def may_pass(error: BaseException, folder: Path) -> bool:
    """Whether opening the database may succeed later, with nothing changed but the disk."""
    if isinstance(error, OSError):
        return error.errno in PASSING_ERRNOS
    if _name(error) == "SQLITE_CANTOPEN":
        # Without rights it stays so; a full disk gives the same error.
        return os.access(folder, os.W_OK | os.X_OK)
    return _name(error).startswith(PASSING)


def describe_write_error(error: BaseException, folder: Path, reserve: DiskReserve) -> str:
    """Return what an error of writing means, and what to do."""
    if is_damage(error):
        return describe_damage(error, folder)
    # Without space SQLite also reports that it cannot open or enlarge one of its files.
    if is_full(error) or reserve.free_bytes() < MARGIN:
        return (
            f"The disk that holds {folder} is full. Sources wait, and nothing is lost. Free at"
            f" least {format_bytes(reserve.bytes_needed())}"
            f" ({format_bytes(reserve.free_bytes())} are free now) or lower"
            " storage.retention_size; writing then continues without a restart."
        )
    return (
        f"The database in {folder} cannot be written: {describe_error(error)} ({_name(error)})."
        " Sources wait, and nothing is lost. Check the disk, its mount and the permissions of the"
        " folder. Writing is tried again until it succeeds."
    )


def describe_damage(error: BaseException, folder: Path) -> str:
    """Return what to do about a damaged database."""
    return (
        f"The database in {folder} is damaged: {describe_error(error)}. Almenara serves what it can"
        " still read, and sources wait. Stop Almenara, copy the folder, and run `almenara storage"
        " check` to see what is affected; then restore the last backup, or remove the damaged rows"
        " with `almenara storage check --repair`."
    )


def describe_open_error(error: BaseException, folder: Path) -> str:
    """Return why the database cannot be opened at all, and what to do."""
    if is_damage(error):
        return describe_damage(error, folder)
    if isinstance(error, PermissionError) or _name(error).startswith(
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "EROFS")
    ):
        return (
            f"Almenara may not write to {folder}: {describe_error(error)}. It runs as user id"
            f" {os.geteuid()}; give that user the folder and the files in it, or set storage.dir to"
            " another folder."
        )
    return f"The database in {folder} cannot be opened: {describe_error(error)}."


def format_bytes(count: int) -> str:
    """Return a number of bytes for people: `33 MiB`, never rounded down."""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= size:
            return f"{-(-count // size)} {unit}"
    return f"{count} bytes"


def _name(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
