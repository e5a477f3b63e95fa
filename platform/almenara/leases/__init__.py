"""Leases: which of several replicas runs a source, or anything else that runs once.

A lease has a token that rises with each holder. The log ignores a batch with an older token than it
has seen, so that a replica which was paused, and runs a source that another one has taken over,
cannot store anything.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from almenara.bus import StateChange
from almenara.signals import Signal


class Publisher(Protocol):
    """What publishes batches."""

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None: ...


Work = Callable[[Publisher], Awaitable[None]]
"""Runs under a lease until it is cancelled; it publishes with what it is called with, so that its
batches have the token of the lease."""


class Leases(Protocol):
    """Runs work on one replica at a time."""

    replica: str
    """The name of this replica; empty where it is the only one."""

    def holder(self, name: str) -> str:
        """The name of the replica that has a lease; empty where none has, or only one can."""

    def find_report(self, name: str) -> Mapping[str, Any] | None:
        """Return the state of a source that another replica runs, as that has published it."""

    async def run(
        self,
        name: str,
        work: Work,
        on_standby: Callable[[], None],
        *,
        origin: str = "",
        is_fenced: bool = False,
    ) -> None:
        """Run work whenever this replica has the lease of that name, until cancelled.

        The work publishes with `origin`, by default the name of the lease. When it starts, all that
        earlier holders have published is stored here, and nothing that they publish is any more.
        `on_standby` is called before each wait for the lease. Returns when the work returns.
        With `is_fenced` the work has no effect but what it publishes, so that it may go on for some
        time while another replica runs it too.
        """


class SoleLeases:
    """The leases of a process that shares its bus with no other: it has all of them."""

    replica = ""

    def __init__(self, bus: Publisher) -> None:
        self._bus = bus

    def holder(self, name: str) -> str:
        return ""

    def find_report(self, name: str) -> Mapping[str, Any] | None:
        return None

    async def run(
        self,
        name: str,
        work: Work,
        on_standby: Callable[[], None],
        *,
        origin: str = "",
        is_fenced: bool = False,
    ) -> None:
        await work(self._bus)
