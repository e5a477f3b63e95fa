"""A directory with a backup: immutable files named by their content, and a list of them.

A backup adds the files that are new, replaces the list in one step, and then removes the files
that the new list does not have. So the list is at any moment that of a complete backup, and a
backup that was killed leaves files that the next one finds again by their names.
"""

import hashlib
import os
from pathlib import Path
from typing import Final, Self

import msgspec

from almenara.bus.folder import FolderInUseError, FolderLock
from almenara.bus.schema import create_private
from almenara.errors import AlmenaraError

LIST: Final = "backup.json"
FORMAT: Final = 1
UNFINISHED: Final = ".almenara-part"
DIGITS: Final = 16
"""Digits of the checksum in the name of a file."""
READ_AT_ONCE: Final = 1024**2


class BackupError(AlmenaraError):
    """A backup cannot be made or restored; the text names a remedy."""


class BackupFile(msgspec.Struct, frozen=True):
    """A file of a backup, and what its content must be."""

    name: str
    restores: str
    """The database that it is a copy or a part of."""
    size: int
    sha256: str


class BackupList(msgspec.Struct, kw_only=True):
    """What a backup consists of."""

    format: int = FORMAT
    schema: int
    """The version of the tables of the history."""
    created: str
    events: int
    files: list[BackupFile]


class BackupFolder:
    """The directory of a backup. Use as a context manager while a backup is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = read_list(path)
        """The last complete backup."""
        self.copied: list[BackupFile] = []
        """Files that were added."""

    def __enter__(self) -> Self:
        try:
            self._lock = FolderLock.acquire(self.path)
        except FolderInUseError as error:
            raise BackupError(
                f"Another backup writes into {self.path}. Run this one when that has ended."
            ) from error
        self._remove_unfinished()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_unfinished()
        self._lock.release()

    def _remove_unfinished(self) -> None:
        for unfinished in self.path.glob(f"*{UNFINISHED}*"):
            unfinished.unlink()

    def unfinished(self, stem: str) -> Path:
        """Return the path of a new file that only its owner can read."""
        path = self.path / f"{stem}{UNFINISHED}"
        create_private(path)
        return path

    def add(self, unfinished: Path, stem: str, restores: str) -> BackupFile:
        """Make a file durable under the name of its content; return its description."""
        sync(unfinished)
        checksum = compute_checksum(unfinished)
        name = f"{stem}-{checksum[:DIGITS]}.db"
        file_of_backup = BackupFile(name, restores, unfinished.stat().st_size, checksum)
        if not (self.path / name).exists():
            self.copied.append(file_of_backup)
        unfinished.rename(self.path / name)
        return file_of_backup

    def find(self, stem: str, restores: str, *, verify: bool) -> list[BackupFile]:
        """Return the intact files whose name starts with a stem; damaged ones are removed.

        Without `verify`, files of the last backup are checked for their size only.
        """
        listed = {file.name: file for file in self.last.files} if self.last is not None else {}
        intact = []
        for path in sorted(self.path.glob(f"{stem}-*.db")):
            file, size = listed.get(path.name), path.stat().st_size
            if file is None or verify:
                checksum = compute_checksum(path)
                actual = BackupFile(path.name, restores, size, checksum)
                is_intact = path.stem.endswith(f"-{checksum[:DIGITS]}") and file in (None, actual)
                file = actual
            else:
                is_intact = file.size == size
            if is_intact:
                intact.append(file)
            else:
                path.unlink()
        return intact

    def commit(self, backup: BackupList) -> None:
        """Make a backup the last one, and remove the files that it does not have."""
        unfinished = self.unfinished(LIST)
        with unfinished.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(backup), indent=2) + b"\n")
        sync(unfinished)
        sync(self.path)
        unfinished.rename(self.path / LIST)
        sync(self.path)
        names = {file.name for file in backup.files}
        kinds = {name.partition("-")[0] for name in names}
        for path in self.path.glob("*-" + "[0-9a-f]" * DIGITS + ".db"):
            # Anything else in the directory is not ours.
            if path.name not in names and path.name.partition("-")[0] in kinds:
                path.unlink()


def read_list(path: Path) -> BackupList | None:
    """Return the list of a backup; None where the folder has no backup. Raises `BackupError`."""
    try:
        content = (path / LIST).read_bytes()
    except FileNotFoundError:
        return None
    try:
        backup = msgspec.json.decode(content, type=BackupList)
    except msgspec.MsgspecError as error:
        raise BackupError(f"{path / LIST} is damaged ({error}). Use another backup.") from error
    if backup.format > FORMAT:
        raise BackupError(
            f"{path} has a backup of the newer format {backup.format}. Upgrade Almenara, or name"
            " another directory."
        )
    if any(Path(file.name).name != file.name for file in backup.files):
        raise BackupError(f"{path / LIST} names files elsewhere. Use another backup.")
    return backup


def check_file(folder: Path, file: BackupFile) -> Path:
    """Return the path of a file of a backup. Raises `BackupError` where it is not intact."""
    path = folder / file.name
    if not path.exists():
        raise BackupError(f"{path} is missing; the backup is incomplete. Use another backup.")
    if compute_checksum(path) != file.sha256:
        raise BackupError(
            f"{path} is damaged: its checksum is not that of {LIST}. Use another backup; the next"
            " `almenara backup` into this directory replaces the file."
        )
    return path


def compute_checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names of the files in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
