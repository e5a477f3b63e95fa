"""Reads core NATS subjects. Messages that cannot be stored in time are lost, and counted."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from almenara.hookspecs import Publish, SourceReport
from almenara.sdk import HealthAggregator
from almenara.signals import Event, Severity, now
from almenara_nats.binary_formats import ProtobufDecoder
from almenara_nats.client import Connection
from almenara_nats.mapping import parse_headers, read_messages
from almenara_nats.settings import NatsSettings

QUEUE_LENGTH: Final = 20_000
QUEUE_BYTES: Final = 64 * 1024**2
"""Messages that may wait, and their bytes; further ones are dropped and reported."""
DROPS_REPORTED: Final = 60.0
"""Seconds for which the last loss is reported."""
INTERNAL_PREFIXES: Final = ("_INBOX.", "$JS.", "$SYS.")
"""Subjects of NATS itself, our own responses among them, that a wildcard includes. They are read
where a setting names them."""
DROPPED_PART: Final = "dropped messages"
DROPPED_TYPE: Final = "almenara.messages.dropped"
AT_MOST_ONCE: Final = {"delivery": "at-most-once"}


class CoreMessage(msgspec.Struct):
    """A message as it arrived."""

    subject: bytes
    payload: bytes
    headers: bytes
    received: int


class CoreReader:
    """Reads the core subjects of the settings over one connection."""

    def __init__(
        self,
        connection: Connection,
        settings: NatsSettings,
        publish: Publish,
        report: SourceReport,
        health: HealthAggregator,
        protobuf: ProtobufDecoder,
    ) -> None:
        self.connection, self.settings = connection, settings
        self.publish, self.report, self.health = publish, report, health
        self.protobuf = protobuf
        self._queue: deque[CoreMessage] = deque()
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._dropped = self._reported = 0
        self._last_drop = 0.0
        self._internal = tuple(
            prefix.encode()
            for prefix in (*INTERNAL_PREFIXES, f"{settings.inbox_prefix}.")
            if not any(subject.startswith(prefix) for subject in settings.subjects)
        )

    async def run(self) -> None:
        """Read until cancelled."""
        subscriptions = [
            await self.connection.subscribe_raw(subject, self._accept)
            for subject in self.settings.subjects
        ]
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DROPS_REPORTED if self._reported else None):
                        await self._wake.wait()
                self._wake.clear()
                await self._report_drops()
                while self._queue:
                    await self._publish_batch()
        finally:
            for unsubscribe in subscriptions:
                await unsubscribe()

    def _accept(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
        if subject.startswith(self._internal):
            return
        if len(self._queue) >= QUEUE_LENGTH or self._queue_bytes + len(payload) > QUEUE_BYTES:
            self._dropped += 1
        else:
            self._queue_bytes += len(payload)
            self._queue.append(CoreMessage(subject, payload, headers, now()))
        self._wake.set()

    async def _publish_batch(self) -> None:
        count = min(len(self._queue), self.settings.batch)
        messages = [self._queue.popleft() for _ in range(count)]
        events = [event for message in messages for event in self._read_events(message)]
        if problems := sum(event.problem is not None for event in events):
            self.report.rejected(problems)
        for start in range(0, len(events), self.settings.batch):
            await self.publish(events[start : start + self.settings.batch])
        self._queue_bytes -= sum(len(message.payload) for message in messages)

    def _read_events(self, message: CoreMessage) -> Sequence[Event]:
        return read_messages(
            message.subject.decode("utf-8", "replace"),
            {**parse_headers(message.headers), **AT_MOST_ONCE},
            message.payload,
            received=message.received,
            raw_limit=self.settings.raw_limit,
            data_limit=self.settings.data_limit,
            protobuf=self.protobuf,
        )

    async def _report_drops(self) -> None:
        if self._dropped > self._reported:
            self.health.note(
                DROPPED_PART,
                f"{self._dropped:,} messages on core subjects arrived faster than they could be"
                " stored and were dropped; put the subjects into a stream",
            )
            loss = Event(
                id=str(uuid.uuid4()),
                source="nats/core",
                origin="nats/core",
                type=DROPPED_TYPE,
                time=now(),
                severity=Severity.WARN,
                data={"dropped": self._dropped - self._reported},
                attributes=dict(AT_MOST_ONCE),
            )
            self._reported, self._last_drop = self._dropped, time.monotonic()
            await self.publish([loss])
        elif self._reported and time.monotonic() - self._last_drop >= DROPS_REPORTED:
            self.health.clear(DROPPED_PART)
