"""Small durable values beside the log: dashboards that users save.

A value is replaced by its revision: of two writers that have read the same one, the second fails
and reads it again. One process stores the values in a file; replicas share them beside their log.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

from almenara.shared_log import ValueChange


class StoredValue(msgspec.Struct, frozen=True):
    """A value and the revision of its last change, which is higher than any before."""

    value: bytes
    revision: int


class StateStore(Protocol):
    """Values by key. A key has letters, digits, `.`, `-` and `_`.

    Each method raises `Unavailable` where the values cannot be read or written at the moment.
    """

    async def get(self, key: str) -> StoredValue | None:
        """Return the value of a key; None without one."""

    async def list_values(self, prefix: str = "") -> Mapping[str, StoredValue]:
        """Return the values whose keys begin with a prefix, by key and sorted by it."""

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        """Create a value (`revision` 0), or replace the one of that revision.

        Returns its new revision; None where it has another one by now.
        """

    async def delete(self, key: str, revision: int) -> bool:
        """Delete the value of that revision; return False where it has another one by now."""

    def watch(self, prefix: str = "") -> AsyncIterator[ValueChange | None]:
        """Yield the values whose keys begin with a prefix, then None, then each change of them.

        Of several changes of one value in a short time, the last is enough.
        """
