"""The access log: sign-ins, refusals and changes by admins, as events on the bus."""

import asyncio
import itertools
import time
import uuid
from collections import deque
from typing import Any, Final

import msgspec
import structlog

from almenara.bus import Bus, BusClosedError
from almenara.scope import ACCESS_LOG
from almenara.signals import Event, Severity, now

log = structlog.get_logger(__name__)

SOURCE: Final = "almenara"
REFUSALS_PER_MINUTE: Final = 120
"""Refusals that are recorded; a flood of them would push out the entries that matter."""
REFUSAL_WINDOW: Final = 60.0
"""Seconds."""
QUEUE_SIZE: Final = 1_000
LONGEST_NAME: Final = 200
TYPE: Final = "almenara.access."
"""The start of the type of each event; the action follows."""
SIGNED_IN: Final = f"{TYPE}signed_in"
SIGN_IN_REFUSED: Final = f"{TYPE}sign_in_refused"


class AccessDetails(msgspec.Struct, frozen=True):
    """The data that each event has."""

    who: str
    address: str


class Audit:
    """Publishes access events in the background, so that no request waits for the bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._queue: deque[Event] = deque(maxlen=QUEUE_SIZE)
        self._wake = asyncio.Event()
        self._refusals: deque[float] = deque(maxlen=REFUSALS_PER_MINUTE)
        self._suppressed = 0
        self._id = uuid.uuid4().hex
        """The start of the ids of what this process records."""
        self._numbers = itertools.count()

    def is_own(self, event: Event) -> bool:
        """Whether this process has recorded an event of the access log."""
        return event.id.startswith(self._id)

    def record(self, action: str, *, user: str, address: str, **details: Any) -> None:
        """Record an action: `signed_in`, `token_created` and the like."""
        self._enqueue(action, Severity.INFO, user, address, details)

    def record_refusal(self, action: str, *, user: str, address: str, reason: str) -> None:
        """Record a refusal. Of a flood, the first of each minute are recorded."""
        moment = time.monotonic()
        is_full = len(self._refusals) == REFUSALS_PER_MINUTE
        if is_full and moment - self._refusals[0] < REFUSAL_WINDOW:
            self._suppressed += 1
            return
        self._refusals.append(moment)
        details: dict[str, Any] = {"reason": reason}
        if self._suppressed:
            details["not_written_before"] = self._suppressed
            self._suppressed = 0
        self._enqueue(action, Severity.WARN, user, address, details)

    def _enqueue(
        self, action: str, severity: Severity, user: str, address: str, details: dict[str, Any]
    ) -> None:
        user = user[:LONGEST_NAME]
        self._queue.append(
            Event(
                id=f"{self._id}-{next(self._numbers)}",
                source=ACCESS_LOG,
                origin=ACCESS_LOG,
                type=f"{TYPE}{action}",
                subject=user,
                time=now(),
                severity=severity,
                data={"who": user, "address": address, **details},
            )
        )
        log.info("access", action=action, user=user, address=address, **details)
        self._wake.set()

    async def run(self) -> None:
        """Publish what is queued, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._queue)
            self._queue.clear()
            if batch:
                try:
                    await self.bus.publish(batch, SOURCE)
                except BusClosedError:
                    return
