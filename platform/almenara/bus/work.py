"""What waits for the writer: batches, values, and entries of a shared log."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from almenara.bus import StateChange
from almenara.signals import Signal

PLACE_BITS: Final = 12
MAX_PLACES: Final = 1 << PLACE_BITS
"""Signals of one message of a shared log. Sequences stay below 2^53, which browsers represent
exactly, for 2^41 messages."""

Finish = Callable[[Exception | None], None]


class Submission(msgspec.Struct):
    """A batch that waits for the writer, and its outcome."""

    signals: Sequence[Signal]
    origin: str
    finish: Finish
    """Called on the event loop once the batch is durable, or with the error it was refused with."""
    duplicates: int = 0
    dropped: int = 0
    """New resources that were left out, because their source has too many."""
    left_out: int = 0
    """Events that the rules of ingest left out."""
    refused: Exception | None = None
    changes: Sequence[StateChange] = ()
    """Written in the transaction of the batch, unless the batch is refused."""


class LogPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How far the index of a replica has applied a shared log; stored with what it applied."""

    identity: str
    """Of the log; see `shared_log.LogBounds`."""
    position: int
    """Position of the last message that was applied."""
    stored_at: int
    """When the log stored that message."""
    resume_at: int
    """Where reading starts again: earlier than the next message while a batch is incomplete."""

    @property
    def end(self) -> int:
        """The first sequence of the message that follows."""
        return (self.position + 1) << PLACE_BITS


class LogEntry(Submission, kw_only=True):
    """A message of a shared log, to be applied to the local index.

    Its signals are already normalized. They are numbered by the position of the message and their
    place in it, so that every replica numbers them alike, whatever else it stores. A message that
    completes no batch has no signals.
    """

    at: LogPosition
    token: int = 0
    """Token of the lease under which the batch was published; 0 where none is needed."""

    @property
    def first_sequence(self) -> int:
        """The sequence of its first signal."""
        return self.at.position << PLACE_BITS


class StateWrite(msgspec.Struct):
    """A plugin's value that waits for the writer."""

    plugin: str
    key: str
    value: bytes
    finish: Finish
    refused: Exception | None = None


Work = Submission | StateWrite
