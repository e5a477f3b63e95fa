"""Room set aside on the disk, given up when the disk is full so that retention can work."""

import os
from pathlib import Path
from typing import Final

MARGIN: Final = 1024**2


class Reserve:
    """A file of `size` bytes beside the database.

    SQLite cannot even delete rows on a full disk; giving up this file lets it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size

    def free(self) -> int:
        """Bytes the file system of the reserve has left."""
        found = os.statvfs(self.path.parent)
        return found.f_bavail * found.f_frsize

    @property
    def needs(self) -> int:
        """Bytes that must be free before writing can go on safely."""
        # More than the reserve takes, or writing would go on only to stop again at once.
        return MARGIN if self.path.exists() else 2 * self.size + MARGIN

    def take(self) -> bool:
        """Set the room aside if it is not and there is enough; whether it is."""
        if self.path.exists() and self.path.stat().st_size >= self.size:
            return True
        if self.free() < self.size + MARGIN:
            return False
        try:
            with self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size)
        except OSError:
            self.path.unlink(missing_ok=True)
            return False
        return True

    def give_up(self) -> None:
        """Let others have the room."""
        self.path.unlink(missing_ok=True)
