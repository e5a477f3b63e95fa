"""The bus: the ordered, replayable log of all signals."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from almenara.errors import Unavailable
from almenara.signals import Signal

if TYPE_CHECKING:
    from almenara.bus.codec import RowDecoder

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, gc=False):
    """A signal and its place in the log."""

    sequence: int
    signal: Signal


StateChange = tuple[str, str, bytes | None]
"""Owner and key of a stored value, and the value; None deletes it."""
MARKER: Final[StateChange] = ("almenara/log", "marker", None)
"""A change that stores nothing. Once it is published, everything published before is stored, and
what is published with an older token of the same origin is not."""


class BusClosedError(Unavailable):
    """The bus is closed; nothing of the batch was stored."""


class LogReader(Protocol):
    """Runs queries of history: the embedded log, or the index of a replica."""

    @property
    def decoder(self) -> "RowDecoder":
        """What turns the rows of a query into records."""

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        """Run `query` off the event loop and return its result.

        Callers share the readers fairly; the empty name is Almenara itself, which has no limit.

        Raises `LimitExceeded` where it takes too long or too many are waiting, and `Unavailable`
        where the database cannot be read.
        """


class BusCounters(msgspec.Struct):
    """What the bus has done since it was opened."""

    ingested: int = 0
    deduplicated: int = 0
    refused: int = 0
    """Batches with a wrong signal, of which nothing was stored."""
    commits: int = 0
    commit_seconds: float = 0.0
    last_commit_seconds: float = 0.0
    removed: int = 0
    waiting: int = 0
    resources_dropped: int = 0
    """New resources that were not stored because their source has too many."""
    left_out: dict[str, int] = {}
    """Events that were not stored, by the source that published them: the rules of ingest left them
    out, or they are text that is only displayed while it is written."""

    def count_left_out(self, source: str, events: int) -> None:
        """Count events of a source that were not stored."""
        if events > 0:
            self.left_out[source] = self.left_out.get(source, 0) + events


class SnapshotStatus(msgspec.Struct, frozen=True):
    """The newest snapshot of a shared log, as one replica knows it."""

    created: int
    """Microseconds since 1970; 0 while unknown."""
    is_usable: bool
    """Whether a replica with an empty folder can start now, from it or from the first message."""


class Bus(Protocol):
    """The log, wherever it is stored."""

    snapshot: SnapshotStatus | None
    """The newest snapshot; None where the log is not shared, or before it is known."""

    @property
    def counters(self) -> BusCounters:
        """What the bus has done since it was opened."""

    @property
    def last_sequence(self) -> int:
        """The highest sequence in use; 0 for an empty log."""

    @property
    def write_problem(self) -> str | None:
        """Why nothing can be written at the moment, and what to do; None while writing works."""

    @property
    def failure(self) -> str | None:
        """Why the bus has stopped for good, so that the process must be restarted; else None."""

    @property
    def warnings(self) -> list[str]:
        """What an operator should know while everything still works, one sentence or two each."""

    @property
    def replica_problems(self) -> list[str] | None:
        """How other replicas of a shared log differ from this one although they must not, one text
        each, with what to do; None where the log is not shared."""

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None:
        """Return once the batch is durable and numbered, and the changes are in the same commit.

        Events whose `source` and `id` were seen within the deduplication window are left out.
        Waits while the log cannot be written. Raises `InvalidSignalError`, after which nothing of
        the batch is stored, and `BusClosedError`.
        """

    @property
    def lag(self) -> float:
        """Seconds by which this process is behind the log; 0 where the log is its own."""

    def distance(self, after: int, through: int) -> int:
        """Return about how much lies between two sequences: signals, or batches of a shared log,
        whose sequences have gaps."""

    async def reach(self, sequence: int) -> None:
        """Wait, for some seconds, until a sequence that another replica has seen is here too."""

    async def load_all(self, owner: str) -> dict[str, bytes]:
        """Return every value that is stored for an owner, by key."""

    def subscribe(self, after: int) -> AsyncIterator[list[Record]]:
        """Yield every record after the sequence `after`: those in the log, then new ones."""
