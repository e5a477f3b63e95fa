"""The access log: who signed in, what was refused, and what admins did, as events on the bus."""

import asyncio
import time
import uuid
from collections import deque
from typing import Any, Final

import structlog

from almenara.bus import Bus, BusClosedError
from almenara.scope import ACCESS_LOG
from almenara.signals import Event, Severity, now

log = structlog.get_logger(__name__)

SOURCE: Final = "almenara"
REFUSALS_PER_MINUTE: Final = 120
"""Refusals that are written down; a flood of them would push out what matters."""
WAITING: Final = 1_000


class Audit:
    """Writes events about access to the bus, without holding up who caused them."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._waiting: deque[Event] = deque(maxlen=WAITING)
        self._wake = asyncio.Event()
        self._refused: deque[float] = deque(maxlen=REFUSALS_PER_MINUTE)
        self._left_out = 0

    def note(self, what: str, *, who: str, address: str, **told: Any) -> None:
        """Write down what somebody did: `signed_in`, `token_created` and the like."""
        self._put(what, Severity.INFO, who, address, told)

    def refused(self, what: str, *, who: str, address: str, reason: str) -> None:
        """Write down what was refused. Of a flood, the first of each minute are written."""
        moment = time.monotonic()
        if len(self._refused) == REFUSALS_PER_MINUTE and moment - self._refused[0] < 60:
            self._left_out += 1
            return
        self._refused.append(moment)
        told: dict[str, Any] = {"reason": reason}
        if self._left_out:
            told["not_written_before"] = self._left_out
            self._left_out = 0
        self._put(what, Severity.WARN, who, address, told)

    def _put(
        self, what: str, severity: Severity, who: str, address: str, told: dict[str, Any]
    ) -> None:
        self._waiting.append(
            Event(
                id=str(uuid.uuid4()),
                source=ACCESS_LOG,
                origin=ACCESS_LOG,
                type=f"almenara.access.{what}",
                subject=who[:200],
                time=now(),
                severity=severity,
                data={"who": who[:200], "address": address, **told},
            )
        )
        log.info("access", what=what, who=who[:200], address=address, **told)
        self._wake.set()

    async def run(self) -> None:
        """Publish what was noted, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._waiting)
            self._waiting.clear()
            if batch:
                try:
                    await self.bus.publish(batch, SOURCE)
                except BusClosedError:
                    return
