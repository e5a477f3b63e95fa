"""The state of a source, for the Sources page, the API and the metrics."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from almenara.clock import now
from almenara.config import Isolation
from almenara.errors import LONGEST, AlmenaraError, make_encodable
from almenara.units import SECOND

Status = Literal["starting", "running", "degraded", "blocked", "backing_off", "stopped", "standby"]
WORKING: Final = frozenset(("running", "degraded"))
"""Statuses in which a source reports itself what it does not know."""
UNPROVEN_AFTER: Final = 5 * SECOND
"""Microseconds in other statuses after which nothing that a source has published is known."""


REPORTED: Final = (
    "status", "since", "error", "error_time", "restarts", "events", "rate", "lag", "rejected",
    "left_out", "refused", "last_received", "throttled", "idle_since",
)  # fmt: skip
"""The fields of a state that other replicas display."""
LARGEST_COUNT: Final = 2**63 - 1
RATE_WINDOW: Final = 10.0
"""Seconds over which the rate of a source is measured."""


class RateMeter:
    """Events per second over the last `RATE_WINDOW`."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def count(self, events: int) -> None:
        """Count events that were published now."""
        self._counts.append((time.monotonic(), events))
        self._forget()

    def per_second(self) -> float:
        """Return the rate as of now."""
        self._forget()
        return sum(events for _, events in self._counts) / RATE_WINDOW

    def _forget(self) -> None:
        start = time.monotonic() - RATE_WINDOW
        while self._counts and self._counts[0][0] < start:
            self._counts.popleft()


class SourceState(msgspec.Struct, kw_only=True):
    """The state of one source."""

    name: str
    plugin: str
    isolation: Isolation = "thread"
    """How it is isolated from the others."""
    status: Status = "starting"
    replica: str = ""
    """The replica that runs it; empty where it is the only one, or none runs it."""
    since: int = msgspec.field(default_factory=now)
    """When it entered that status, in microseconds since the epoch."""
    error: str | None = None
    """The last error, for the person who reads it."""
    error_time: int | None = None
    restarts: int = 0
    events: int = 0
    """Events published since Almenara started."""
    rate: float = 0.0
    """Events per second, over the last ten seconds."""
    lag: int | None = None
    """Messages that wait upstream, where the source knows."""
    rejected: int = 0
    """Messages that could be stored only with a problem marked."""
    left_out: int = 0
    """Events not stored: because of `storage.ingest_rules`, or as text that is only displayed while
    it is written."""
    refused: int = 0
    """Requests of a sender that were refused: invalid, too large, or above its limits."""
    last_received: int | None = None
    """When a sender last pushed signals that were stored; None for a source that reads."""
    throttled: int = 0
    """Signals that had to wait because the source was above its rate."""
    tasks: int | None = None
    """Tasks of its event loop; None while it has no loop of its own."""
    memory: int | None = None
    """Resident bytes of its process; None where it has no process of its own."""
    blocked: str | None = None
    """The stack where its event loop is blocked, innermost call last; None while it runs."""

    idle_since: int | None = None
    """Since when it has failed or is blocked, whatever it tries meanwhile; None while it works."""
    is_reported: bool = False
    """Whether this is what another replica, which runs it, has published."""

    @property
    def is_unproven(self) -> bool:
        """Whether it has not worked for so long that nothing it has published is known any more."""
        return self.idle_since is not None and now() - self.idle_since > UNPROVEN_AFTER

    @property
    def is_remote(self) -> bool:
        """Whether another replica runs it."""
        return self.is_reported or self.is_unreported

    @property
    def is_unreported(self) -> bool:
        """Whether another replica runs it, and has not published its state yet."""
        return self.status == "standby" and bool(self.replica)

    @property
    def has_problem(self) -> bool:
        """Whether it does not run, neither here nor on another replica."""
        return self.status != "running" and not self.is_unreported

    def set_status(self, status: Status) -> None:
        """Set the status, and since when it holds."""
        if status in WORKING or status == "standby":
            self.idle_since = None
        elif status != "starting" and self.idle_since is None:
            # A source that starts has not failed yet, or has not recovered yet.
            self.idle_since = now()
        if self.status != status:
            self.status = status
            self.since = now()

    def record_error(self, error: str) -> None:
        """Set the last error."""
        self.error = shorten_error(error)
        self.error_time = now()


def shorten_error(error: str) -> str:
    """Return the text of a plugin as a state has it."""
    return make_encodable(str(error)[:LONGEST])


def bound_count(number: int) -> int:
    """Return a number of a plugin as a count that can be stored. Raises `ValueError` and
    `TypeError` for anything but a number."""
    return min(max(int(number), 0), LARGEST_COUNT)


def encode_report(state: SourceState) -> dict[str, Any]:
    """Return what other replicas display of a state: what differs from that of a new source."""
    fields = msgspec.to_builtins(state)
    return {name: fields[name] for name in REPORTED if fields[name]}


def decode_report(report: Mapping[str, Any], state: SourceState) -> SourceState | None:
    """Return the state of a source that another replica runs; None for a report that this version
    cannot read. `state` is what this replica has of it."""
    local = {"name": state.name, "plugin": state.plugin, "isolation": state.isolation}
    known = {name: value for name, value in report.items() if name in REPORTED}
    try:
        reported = msgspec.convert({**known, **local}, SourceState)
    except msgspec.ValidationError:
        return None
    reported.replica, reported.is_reported = state.replica, True
    return reported


class SourceError(AlmenaraError):
    """A source ended; the text says why and is complete without the name of the type."""
