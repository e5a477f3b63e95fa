"""The storage folder: made for its owner alone, and used by one process at a time."""

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Final, Self

from almenara.bus.storage_errors import StorageError, describe_open_error
from almenara.errors import Unavailable, describe_error

LOCK: Final = "almenara.lock"
NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


class FolderInUseError(Unavailable):
    """Another process uses the storage folder; the text names it."""


def prepare_folder(folder: Path) -> None:
    """Create a folder that only its owner can read, unless it exists. Raises `StorageError`.

    An existing folder keeps its permissions: it may be a mount that others share.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(
            f"storage.dir is {folder}, which is a file. Remove it, or set storage.dir to a folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as error:
        raise StorageError(
            f"storage.dir is {folder}, and a part of that path is a file. Set storage.dir to a"
            " folder."
        ) from error
    except NotADirectoryError as error:
        raise StorageError(
            f"storage.dir is {folder}, and a part of that path is a file. Set storage.dir to a"
            " folder."
        ) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(describe_open_error(error, folder)) from error
        raise
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(describe_open_error(PermissionError("permission denied"), folder))


def set_aside(folder: Path, name: str, suffix: str) -> Path:
    """Rename a database of the folder with the files beside it, and return its new path."""
    path = folder / name
    target = unused_name(path.with_name(f"{name}.{suffix}"))
    for ending in ("", "-wal", "-shm"):
        part = path.with_name(f"{name}{ending}")
        if part.exists():
            part.rename(target.with_name(f"{target.name}{ending}"))
    return target


def unused_name(path: Path) -> Path:
    """Return the path, or one with a number behind it where the path exists."""
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


class FolderLock:
    """Keeps other processes from writing to the folder, until closed or until this process ends.

    The lock is the operating system's, so that a killed process leaves none behind. Commands that
    only read, such as a backup, need none.
    """

    def __init__(self, file: int) -> None:
        self._file: int | None = file

    @classmethod
    def acquire(cls, folder: Path) -> Self:
        """Lock a folder. Raises `FolderInUseError`."""
        path = folder / LOCK
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _read_owner(file)
            os.close(file)
            raise FolderInUseError(
                f"The folder {folder} is in use by {owner}. Stop it first, or set storage.dir to"
                " another folder: two processes on one database would damage it."
            ) from error
        except OSError as error:
            # A file system without locks: going on is what its users expect.
            if error.errno not in NO_LOCKS:
                os.close(file)
                raise
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except OSError:
            # The name of the owner is for a message only; a full disk must not prevent the start.
            pass
        return cls(file)

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def find_owner(folder: Path) -> str | None:
    """Return the process that uses a folder, for people; None where no process does."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(file)
    except OSError:
        return None
    finally:
        os.close(file)
    return None


def check_folder(folder: Path) -> str | None:
    """Return what keeps Almenara from using a folder, and what to do; None where nothing does.

    Changes nothing: for `almenara doctor`.
    """
    existing = next(
        (path for path in (folder, *folder.absolute().parents) if path.exists()), folder
    )
    if not existing.is_dir():
        return f"storage.dir is {folder}, and {existing} is a file. Set storage.dir to a folder."
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        return describe_open_error(PermissionError("permission denied"), folder)
    return None


def _read_owner(file: int) -> str:
    try:
        pid, _, host = os.pread(file, 200, 0).decode("ascii", "replace").strip().partition(" ")
    except OSError as error:
        return f"another process ({describe_error(error)})"
    if not pid:
        return "another process"
    return f"the process with id {pid}" + (f" on {host}" if host else "")
