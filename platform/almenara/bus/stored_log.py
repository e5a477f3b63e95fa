"""The log of a folder, read beside the process that writes it or without one."""

from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Self, TypeVar

from almenara.bus.codec import RowDecoder
from almenara.bus.readers import UNLIMITED, Readers
from almenara.bus.schema import connect, require_current
from almenara.bus.writer_thread import DATABASE

T = TypeVar("T")


class StoredLog:
    """A `LogReader` for commands. Use as an async context manager."""

    def __init__(self, folder: Path) -> None:
        self.decoder = RowDecoder(is_quiet=True)
        self._path = folder / DATABASE

    async def __aenter__(self) -> Self:
        """Open the log.

        Raises `FileNotFoundError` where there is no database, `StorageError` for an older schema,
        and `SchemaTooNewError`.
        """
        if not self._path.exists():
            raise FileNotFoundError(f"{self._path.parent} has no database; check storage.dir")
        connection = connect(self._path, writable=False)
        try:
            require_current(connection, self._path)
        finally:
            connection.close()
        self._readers = Readers(self._path, 1, UNLIMITED, "stored-log", in_transaction=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._readers.close()

    async def read(self, query: Callable[[Connection], T], caller: str = "") -> T:
        """Return the result of a query, which runs in one transaction."""
        return await self._readers.run(query, caller)
