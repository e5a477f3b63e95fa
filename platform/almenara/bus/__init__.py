"""The bus: the ordered, replayable log of all signals."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from almenara.errors import Unavailable
from almenara.signals import Signal

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True):
    """A signal and the place the bus gave it."""

    sequence: int
    signal: Signal


class BusClosedError(Unavailable):
    """The bus has been closed; nothing of the batch was kept."""


class LogReader(Protocol):
    """Runs queries of history: the embedded log, or the index of a replica."""

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` off the event loop and return its result.

        Raises `almenara.bus.readers.QueryTooSlowError`.
        """


class BusCounters(msgspec.Struct):
    """What the bus has done since it was opened."""

    ingested: int = 0
    deduplicated: int = 0
    commits: int = 0
    commit_seconds: float = 0.0
    last_commit_seconds: float = 0.0
    removed: int = 0
    waiting: int = 0


class Bus(Protocol):
    """The log, wherever it is kept."""

    counters: BusCounters

    @property
    def last_sequence(self) -> int:
        """The highest sequence given so far; 0 for an empty log."""

    @property
    def write_problem(self) -> str | None:
        """Why nothing can be written at the moment, and what to do; None while all is well."""

    async def publish(self, batch: Sequence[Signal], origin: str) -> None:
        """Return once the batch is durable and numbered.

        Events whose `source` and `id` were seen within the deduplication window are left out.
        Waits while the log cannot be written. Raises `BusClosedError`.
        """

    def subscribe(self, after: int) -> AsyncIterator[list[Record]]:
        """Every record after the sequence `after`: those in the log, then those to come."""
