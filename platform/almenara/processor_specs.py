"""What a processor is: its subscription, its state and the steps of its work.

Part of the contract: `almenara.hookspecs` has all of these names.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from almenara.signals import Signal

T = TypeVar("T")


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """What a processor reads from the bus. Each field has names, or patterns as in NATS subjects:
    `planning.>`; `>` alone stands for all. Signals that the processor publishes itself are left
    out."""

    events: tuple[str, ...] = ()
    """Types of events."""
    resources: tuple[str, ...] = ()
    """Kinds of resources."""
    samples: tuple[str, ...] = ()
    """Metrics of samples."""


class ProcessorState(Protocol):
    """The durable values of a processor, by key: anything that msgspec can write as JSON.

    What one call changes is committed together with the signals that it returns, and discarded
    where it raises.
    """

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value of a key as `kind`, a copy; None without one."""

    def set(self, key: str, value: Any) -> None:
        """Set the value of a key. Raises `ValueError` for more than 1 MiB."""

    def delete(self, key: str) -> None:
        """Delete a key, if it exists."""

    def keys(self, prefix: str = "") -> Sequence[str]:
        """The keys that begin with a prefix, sorted."""


class Step(Protocol):
    """The processing of one signal, or of one timer, by a processor."""

    state: ProcessorState
    sequence: int
    """The place of the signal in the log; of the tick that was processed, for a timer."""
    time: int
    """The time of the signal, or the present where that is more than five minutes ahead; the time a
    timer was set to. Microseconds since the epoch."""

    def event_id(self, *parts: str) -> str:
        """An id for a derived event, made from its cause: the place of the signal in the log, or
        key and time of the timer. `parts` distinguish events that have the same cause. The bus
        stores an id once, so an event that is derived again after a crash is not doubled."""

    def set_timer(self, key: str, at: int) -> None:
        """Call `on_timer(key)` once the time of the log has reached `at`. It replaces a timer of
        the same key, and is durable."""

    def cancel_timer(self, key: str) -> None:
        """Cancel the timer of a key, if it is set."""


@runtime_checkable
class Processor(Protocol):
    """The part of a plugin that derives signals from signals; supervised like a source.

    It is a function of the log: from the same state and the same signal it must derive the same,
    without a look at the clock or at other systems. The position in the log, its state, its timers
    and what it derives are committed together, so that after a crash it goes on as if nothing had
    happened. A signal or a timer that makes it raise is skipped and reported.

    A processor may have a `name`; the default is the name of its plugin. It reads what is published
    after its first start; with `from_start = True`, everything that is in the log. It runs in a
    thread of its own.
    """

    subscription: Subscription

    def on_signal(self, signal: Signal, step: Step) -> Iterable[Signal]:
        """Return the signals that are derived from a signal. Signals come in the order of the log,
        each once; their times may be in another order."""


@runtime_checkable
class TimedProcessor(Processor, Protocol):
    """A processor that sets timers.

    Time passes on the log: while timers are due, the platform publishes a tick, and timers are
    called when the processor reads it. So the order of signals and timers is the same whenever the
    log is read.
    """

    def on_timer(self, key: str, step: Step) -> Iterable[Signal]:
        """Return the signals that are derived when a timer is due."""
