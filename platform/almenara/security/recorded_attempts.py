"""Counts the failed sign-ins of the access log: those before a start, and those of other replicas.

They are events of the bus, which every replica reads. So they are stored once, with everything
else that is recorded of a sign-in.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from almenara.bus import Bus, BusClosedError, Record
from almenara.errors import AlmenaraError, describe_error
from almenara.history import Filter, History
from almenara.scope import ACCESS_LOG
from almenara.security.audit import SIGN_IN_REFUSED, SIGNED_IN, AccessDetails, Audit
from almenara.security.rate_limit import FORGET_AFTER, FailureLimiter
from almenara.security.trusted_proxies import rate_key
from almenara.signals import Event, now
from almenara.units import SECOND

log = structlog.get_logger(__name__)
decode = msgspec.json.Decoder(AccessDetails).decode

MOST: Final = 10_000
"""Events of the access log that a start reads at most, the newest."""


class RecordedAttempts:
    """Keeps the counts of a process up to date with the access log."""

    def __init__(self, bus: Bus, audit: Audit, attempts: FailureLimiter) -> None:
        self._bus, self._audit, self._attempts = bus, audit, attempts
        self._sequence = 0

    async def load(self, history: History) -> None:
        """Count what was recorded before this process started."""
        self._sequence = self._bus.last_sequence
        recent = Filter(origin=ACCESS_LOG, since=now() - round(FORGET_AFTER * SECOND))
        try:
            records = await history.events(recent, limit=MOST)
        except AlmenaraError as error:
            reason = describe_error(error)
            log.warning("failed sign-ins before the start are not counted", reason=reason)
        else:
            self.accept(records[::-1])

    async def run(self) -> None:
        """Count what other replicas record, until cancelled."""
        with suppress(BusClosedError):
            async for batch in self._bus.subscribe(self._sequence):
                self.accept(batch)

    def accept(self, batch: Sequence[Record]) -> None:
        """Count what this process has not recorded itself. Plugins cannot publish with the origin
        of the access log."""
        for record in batch:
            event = record.signal
            if type(event) is not Event or event.origin != ACCESS_LOG or self._audit.is_own(event):
                continue
            if event.type in (SIGN_IN_REFUSED, SIGNED_IN):
                # Redaction may be configured to mask addresses.
                with suppress(msgspec.MsgspecError):
                    self._count(event)

    def _count(self, event: Event) -> None:
        key = rate_key(decode(msgspec.json.encode(event.data)).address)
        if event.type == SIGNED_IN:
            self._attempts.reset(key)
        else:
            self._attempts.record_failure(key, age=max(now() - event.time, 0) / SECOND)
