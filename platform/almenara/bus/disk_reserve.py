"""Space set aside on the disk, released when the disk is full so that retention can work."""

import contextlib
import os
from pathlib import Path
from typing import Final

MARGIN: Final = 1024**2


class DiskReserve:
    """A file of `size` bytes beside the database.

    SQLite cannot even delete rows on a full disk; releasing this file lets it. No method raises:
    where the disk fails, the reserve is simply not there.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size

    def free_bytes(self) -> int:
        """Return how many bytes the file system has left; 0 where it does not answer."""
        try:
            status = os.statvfs(self.path.parent)
        except OSError:
            return 0
        return status.f_bavail * status.f_frsize

    def bytes_needed(self) -> int:
        """Return how many bytes must be free before writing can continue safely."""
        # More than the reserve takes, or writing would continue only to stop again at once.
        return MARGIN if self._is_allocated() else 2 * self.size + MARGIN

    def allocate(self) -> bool:
        """Set the space aside unless it is already or there is too little; whether it is."""
        if self._is_allocated():
            return True
        if self.free_bytes() < self.size + MARGIN:
            return False
        try:
            with os.fdopen(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the space back to the file system."""
        # A disk that fails to remove the file has other problems than its size.
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _is_allocated(self) -> bool:
        try:
            return self.path.stat().st_size >= self.size
        except OSError:
            return False
