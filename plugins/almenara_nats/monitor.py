"""Streams and consumers as resources with samples, so that a stuck consumer is seen."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from nats.js.api import ConsumerInfo, StreamInfo
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import Context, Publish, ResourceKey
from almenara.sdk import honor_cancellation
from almenara.signals import Resource, Sample, Severity, Signal
from almenara_nats.client import Connection
from almenara_nats.settings import NatsSettings

log = structlog.get_logger(__name__)

STREAM: Final = "nats.stream"
CONSUMER: Final = "nats.consumer"
SERVER: Final = "nats.server"
PAGE: Final = 256
PER_SECOND: Final = "1/s"
BYTES: Final = "By"


FIRST_LOOK: Final = 0.1
SOURCE: Final = "nats"


class Progress(msgspec.Struct):
    """How far a consumer is, and since when."""

    acknowledged: int
    since: float


class Observer:
    """Looks at all streams and consumers of an account at regular times."""

    def __init__(self, connection: Connection, settings: NatsSettings, context: Context) -> None:
        self.connection, self.settings, self.context = connection, settings, context
        self.streams: dict[str, StreamInfo] | None = None
        """The streams there are, as the last look at the account found them; None before that."""
        self._told: dict[ResourceKey, Resource | None] = {}
        """What was told last; None where only an earlier run knows what."""
        self._last: dict[str, tuple[float, int]] = {}
        self._progress: dict[tuple[str, str], Progress] = {}

    async def run(self, publish: Publish, lag: Callable[[str, int], None]) -> None:
        """Publish what is seen, until cancelled; `lag` is told what waits for our consumers."""
        self._told = dict.fromkeys(await self.context.known_resources(SOURCE))
        while True:
            if self.streams is None:
                await asyncio.sleep(FIRST_LOOK)
                continue
            signals: list[Signal] = [*self._server()]
            unsure: set[str] = set()
            for name, info in list(self.streams.items()):
                signals += self._stream(name, info)
                try:
                    consumers = await self._consumers(name)
                except (JetStreamError, TimeoutError) as error:
                    log.debug("consumers cannot be listed", stream=name, reason=str(error))
                    unsure.add(name)
                    continue
                for consumer in consumers:
                    signals += self._consumer(name, consumer)
                    if consumer.name == self.settings.durable:
                        lag(name, (consumer.num_pending or 0) + (consumer.num_ack_pending or 0))
            await publish(self._changed(signals, unsure))
            await asyncio.sleep(self.settings.observe)

    async def _consumers(self, stream: str) -> list[ConsumerInfo]:
        jetstream = self.connection.jetstream()
        found: list[ConsumerInfo] = []
        while True:
            page = await honor_cancellation(jetstream.consumers_info(stream, offset=len(found)))
            found += page
            if len(page) < PAGE:
                return found

    def _server(self) -> list[Signal]:
        info: dict[str, Any] = self.connection._server_info
        return [
            Resource(
                kind=SERVER,
                name=str(info.get("server_name") or info.get("server_id") or "server"),
                status="connected",
                state={"version": str(info.get("version", "")), "host": str(info.get("host", ""))},
            )
        ]

    def _stream(self, name: str, info: StreamInfo) -> list[Signal]:
        state, moment = info.state, time.monotonic()
        before = self._last.get(name)
        self._last[name] = (moment, state.last_seq)
        subjects = [str(it) for it in info.config.subjects or []]
        signals: list[Signal] = [
            Resource(
                kind=STREAM,
                name=name,
                status="ok",
                state={
                    "subjects": subjects,
                    "storage": str(info.config.storage or ""),
                    "retention": str(info.config.retention or ""),
                    "created": str(info.created),
                },
            ),
            Sample(kind=STREAM, name=name, metric="messages", value=float(state.messages)),
            Sample(kind=STREAM, name=name, metric="bytes", value=float(state.bytes), unit=BYTES),
            Sample(
                kind=STREAM, name=name, metric="consumers", value=float(state.consumer_count or 0)
            ),
        ]
        if before is not None and moment > before[0]:
            rate = max(state.last_seq - before[1], 0) / (moment - before[0])
            signals.append(
                Sample(kind=STREAM, name=name, metric="rate", value=rate, unit=PER_SECOND)
            )
        return signals

    def _consumer(self, stream: str, info: ConsumerInfo) -> list[Signal]:
        acknowledged = info.ack_floor.stream_seq if info.ack_floor else 0
        figures = {
            "pending": info.num_pending or 0,
            "ack_pending": info.num_ack_pending or 0,
            "redelivered": info.num_redelivered or 0,
            "waiting": info.num_waiting or 0,
        }
        progress = self._progress.get((stream, info.name))
        has_work = figures["pending"] or figures["ack_pending"]
        if progress is None or progress.acknowledged != acknowledged or not has_work:
            progress = self._progress[stream, info.name] = Progress(acknowledged, time.monotonic())
        stalled = time.monotonic() - progress.since >= self.settings.stalled_after
        return [
            Resource(
                kind=CONSUMER,
                namespace=stream,
                name=info.name,
                status="stalled" if stalled else "ok",
                severity=Severity.WARN if stalled else Severity.INFO,
                state={"ack_policy": str(info.config.ack_policy or "")},
            ),
            *(
                Sample(
                    kind=CONSUMER, namespace=stream, name=info.name, metric=metric,
                    value=float(value),
                )
                for metric, value in figures.items()
            ),
        ]  # fmt: skip

    def _changed(self, signals: list[Signal], unsure: set[str]) -> list[Signal]:
        """The signals without resources told before, and with those that are gone.

        Nothing is said of the consumers of the streams `unsure`, which could not be asked.
        """
        seen: dict[ResourceKey, Resource | None] = {}
        changed: list[Signal] = []
        for signal in signals:
            if not isinstance(signal, Resource):
                changed.append(signal)
                continue
            seen[signal.key] = signal
            told = self._told.get(signal.key)
            if told is None or (told.status, told.state) != (signal.status, signal.state):
                changed.append(signal)
        for key in self._told.keys() - seen.keys():
            kind, namespace, name = key
            if kind == CONSUMER and namespace in unsure:
                seen[key] = self._told[key]
                continue
            changed.append(
                Resource(kind=kind, namespace=namespace, name=name, status="gone", deleted=True)
            )
            self._last.pop(name, None)
            self._progress.pop((namespace, name), None)
        self._told = seen
        return changed
