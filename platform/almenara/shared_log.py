"""The contract of a log that several replicas share; a plugin stores it.

Part of the contract: `almenara.hookspecs` has all of these names.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec


class LogMessage(msgspec.Struct, frozen=True):
    """A message of the log, as every replica reads it."""

    position: int
    """Its place in the log, from 1; later messages have higher positions."""
    stored_at: int
    """When it was stored, by the clock of the log. Two messages of one position that differ in this
    are not of the same log."""
    payload: bytes


class LogBounds(msgspec.Struct, frozen=True):
    """Which messages the log has."""

    identity: str
    """Changes when the log is deleted and created again."""
    first: int
    """Position of the oldest message; one more than `last` where there are no messages."""
    last: int
    """Position of the newest message; 0 where nothing was ever appended."""


class ValueChange(msgspec.Struct, frozen=True):
    """A shared value was created, updated or deleted."""

    key: str
    value: bytes | None
    """None where it was deleted."""
    revision: int


class SharedValues(Protocol):
    """Small values that replicas share. A key has letters, digits, `.`, `-` and `_`.

    Each change has a revision, which is higher than any before. Each method raises `Unavailable`
    once the session has ended.
    """

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        """Create a value (`revision` 0), or replace the one of that revision.

        Returns its new revision; None where it has another one by now.
        """

    async def delete(self, key: str, revision: int) -> bool:
        """Delete the value of that revision; return False where it has another one by now."""

    def watch(self) -> AsyncIterator[ValueChange | None]:
        """Yield the values that exist, then None, then each change. Expiry is not a change."""

    async def identity(self) -> str:
        """Return what changes when all values are deleted as a whole."""

    async def newest_revision(self) -> int:
        """Return the revision of the last change."""


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the log has found, for `almenara doctor`."""

    problems: Sequence[str]
    """What is wrong with it, with a remedy each."""
    durability: str
    """What acknowledged messages survive, and what not, in a few sentences."""
    max_age: float | None = None
    """Seconds for which messages are stored; None without a limit."""


class SharedObjects(Protocol):
    """Larger values that replicas share: the parts of snapshots.

    A name has letters, digits and `-`. An object is written once and never changed. Each method
    raises `Unavailable`.
    """

    async def names(self) -> set[str]:
        """Return the names of the objects that are complete."""

    async def put(self, name: str, content: bytes) -> None:
        """Store an object. It is complete once this returns, and not before."""

    async def get(self, name: str) -> bytes | None:
        """Return the content of an object; None where it does not exist or is damaged."""

    async def discard(self, name: str) -> None:
        """Delete an object, which is damaged, so that it can be stored again."""

    async def retain(self, names: Collection[str]) -> None:
        """Delete all objects but these, and what interrupted writes have left."""


class LogSession(Protocol):
    """A connection to the log. Each method raises `Unavailable` once it cannot be used any more;
    then a new session is opened."""

    max_bytes: int
    """The largest payload that `append` accepts."""

    leases: SharedValues
    """Values that expire when they are not updated for `lease_ttl`."""
    lease_ttl: float
    """Seconds."""
    state: SharedValues
    """Values that do not expire: sessions, the hashes of tokens, and saved dashboards."""
    snapshots: SharedObjects
    """Parts of snapshots of the history."""

    async def bounds(self) -> LogBounds:
        """Return which messages the log has now."""

    async def append(self, payload: bytes, message_id: str) -> int:
        """Append a message and return its position, once it is stored.

        A message whose id was appended a short time before is not stored again.
        """

    def read(self, start: int) -> AsyncIterator[Sequence[LogMessage]]:
        """Yield the messages from a position on, then each new one, in the order of the log.

        The first sequence is yielded once the log delivers, and is empty where nothing is stored
        from that position on.
        """


class SharedLog(Protocol):
    """Where a shared log is stored."""

    def connect(self) -> AbstractAsyncContextManager[LogSession]:
        """Open a session. Raises `Unavailable`, with what to do."""

    async def prepare(self, first: int = 1) -> str:
        """Create what stores the log, or bring its settings up to date; return the result in a few
        words. Raises `Unavailable`.

        With `first`, the first message has that position. Raises `ValueError` where the log has
        messages already.
        """

    async def check(self) -> LogReport:
        """Return what is wrong with it, and what it promises. Raises `Unavailable`."""


class SharedLogKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of shared log that a plugin offers: `bus.kind` selects it by name."""

    name: str
    """Name in the configuration, such as `jetstream`."""
    settings: type[msgspec.Struct]
    """Struct of its settings, `bus.settings` in the configuration."""
    create: Callable[[Any], SharedLog]
    """Creates the log from its settings. Connects nowhere yet."""
