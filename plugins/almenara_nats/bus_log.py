"""The shared log of replicas as a stream: one message a batch, its position the stream sequence."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import (
    LogBounds,
    LogMessage,
    LogReport,
    SharedObjects,
    SharedValues,
)
from almenara.sdk import finish_within, honor_cancellation
from almenara_nats.bus_objects import JetStreamObjects, apply_object_store
from almenara_nats.bus_settings import JetStreamBusSettings
from almenara_nats.bus_values import (
    BUCKET_CHECK,
    DELETION_TTL,
    JetStreamValues,
    apply_buckets,
    find_stream,
)
from almenara_nats.client import Connection, connected
from almenara_nats.deliveries import (
    HEARTBEAT,
    ROUTE_PAUSE,
    UNAVAILABLE,
    Delivery,
    is_unrouted,
    parse_delivery,
    parse_status,
)
from almenara_nats.errors import (
    NO_LEADER_REMEDY,
    NatsUnavailableError,
    PermissionDeniedError,
    translated_errors,
)
from almenara_nats.kinds import BUS_METADATA, is_leaderless
from almenara_nats.settings import NatsSettings

HEADER_SPACE: Final = 512
"""Bytes of a message that its headers may take."""
BATCH: Final = 500
"""Messages that are requested at once."""
BATCH_BYTES: Final = 8 * 1024**2
CONSUMER_TIMEOUT: Final = 1.0
"""Seconds until another consumer is created: one that was placed on a frozen server never
responds."""
CONSUMER_ATTEMPTS: Final = 5
STATE_TIMEOUT: Final = 1.5
REQUEST_LIFETIME: Final = 30.0
IDLE_HEARTBEAT: Final = 1.0
SILENCE: Final = 3.0
"""Seconds without a message or a heartbeat after which a session ends."""
INACTIVE_THRESHOLD: Final = 60.0
"""Seconds after which the server deletes the consumer of a replica that has ended."""
DUPLICATE_WINDOW: Final = 120.0
CLOSE_TIMEOUT: Final = 1.0
COMPARED_FIELDS: Final = ("subjects", "num_replicas", "max_age", "max_bytes")
FIXED_FIELDS: Final = ("storage", "retention", "discard", "deny_delete")


class JetStreamLog:
    """The stream of the settings, with the servers and the user of the plugin."""

    def __init__(self, settings: NatsSettings, bus: JetStreamBusSettings) -> None:
        self.settings, self.bus = settings, bus

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["JetStreamSession"]:
        """Open a session. Raises `NatsUnavailableError`."""
        async with connected(self.settings) as connection:
            connection.collects_messages = False
            connection.awaits_leaders = True
            yield JetStreamSession(connection, self.bus)

    async def prepare(self, first: int = 1) -> str:
        """Create the stream or update its limits; return the result in a few words."""
        config = build_stream_config(self.bus)
        if first > 1:
            config = config.evolve(first_seq=first)
        async with connected(self.settings) as connection:
            jetstream = connection.jetstream()
            with translated_errors(self.bus.stream):
                await apply_buckets(jetstream, self.bus)
                objects = await find_stream(jetstream, f"OBJ_{self.bus.snapshot_bucket}")
                await apply_object_store(jetstream, self.bus, objects)
                info = await find_stream(jetstream, self.bus.stream)
                if info is not None and first > 1:
                    await delete_unused(jetstream, info)
                    info = None
                if info is None:
                    await jetstream.add_stream(config)
                    return "created"
                current = info.config
                different = [
                    field
                    for field in COMPARED_FIELDS
                    if getattr(current, field) != getattr(config, field)
                ]
                if not different:
                    return "unchanged"
                values = {field: getattr(config, field) for field in different}
                await jetstream.update_stream(current.evolve(**values))
        return f"updated ({', '.join(different)})"

    async def check(self) -> LogReport:
        """Return what is wrong with the stream and the buckets. Raises `NatsUnavailableError`."""
        async with connected(self.settings) as connection:
            jetstream = connection.jetstream()
            with translated_errors(self.bus.stream):
                info = await jetstream.stream_info(self.bus.stream)
                missing = [
                    name
                    for name in self.bus.bucket_streams
                    if await find_stream(jetstream, name) is None
                ]
        problems = check_stream(info, self.bus)
        problems += [
            f"The bucket {name} is missing. Run `almenara streams apply`." for name in missing
        ]
        return LogReport(
            problems=problems,
            durability=describe_durability(info),
            max_age=info.config.max_age or None,
        )


class JetStreamSession:
    """The log over one connection, which is not used again once it has failed."""

    def __init__(self, connection: Connection, bus: JetStreamBusSettings) -> None:
        self.connection, self.bus = connection, bus
        self.lease_ttl = bus.lease_ttl
        self.max_bytes = connection.max_payload - HEADER_SPACE
        self._jetstream = connection.jetstream(timeout=bus.publish_timeout)
        leases = connection.jetstream(timeout=bus.lease_ttl / 6)
        self.leases: SharedValues = JetStreamValues(connection, leases, bus.lease_bucket)
        state = connection.jetstream(timeout=STATE_TIMEOUT)
        self.state: SharedValues = JetStreamValues(
            connection, state, bus.state_bucket,
            deletion_ttl=DELETION_TTL, check_interval=BUCKET_CHECK,
        )  # fmt: skip
        self.snapshots: SharedObjects = JetStreamObjects(self._jetstream, bus.snapshot_bucket)

    async def bounds(self) -> LogBounds:
        """Return which messages the stream has.

        Raises `NatsUnavailableError`, also where the stream can be read but stores nothing.
        """
        with translated_errors(self.bus.stream):
            info = await honor_cancellation(self._jetstream.stream_info(self.bus.stream))
        if is_leaderless(info):
            # A server that is left without the others answers, and delivers what it has.
            raise NatsUnavailableError(
                f"the stream {self.bus.stream} has no leader. {NO_LEADER_REMEDY}"
            )
        state = info.state
        first = state.first_seq if state.messages else state.last_seq + 1
        return LogBounds(identity=str(info.created), first=first, last=state.last_seq)

    async def append(self, payload: bytes, message_id: str) -> int:
        """Publish a message; returns its sequence. Raises `NatsUnavailableError`."""
        with translated_errors(self.bus.stream):
            ack = await honor_cancellation(
                self._jetstream.publish(
                    self.bus.subject,
                    payload,
                    stream=self.bus.stream,
                    headers={"Nats-Msg-Id": message_id},
                )
            )
        return ack.seq

    async def read(self, start: int) -> AsyncIterator[Sequence[LogMessage]]:
        """Yield messages from a sequence on. Raises `NatsUnavailableError`."""
        reader = LogReader(self.connection, self.bus.stream)
        inbox = self.connection.new_inbox()
        unsubscribe = await self.connection.subscribe_raw(inbox, reader.accept)
        try:
            with translated_errors(self.bus.stream):
                await reader.create_consumer(start)
                yield []
                while True:
                    await reader.request(inbox)
                    if messages := await reader.next_messages():
                        yield messages
        finally:
            await unsubscribe()
            await reader.delete_consumer()


async def delete_unused(jetstream: JetStreamContext, info: StreamInfo) -> None:
    """Delete a stream to which nothing was ever published. Raises `ValueError` for another one."""
    # One that starts at a position has the one before as its last.
    if info.state.messages or info.state.last_seq >= (info.config.first_seq or 1):
        raise ValueError(
            f"the stream {info.config.name} has messages already; delete it, or set"
            " bus.settings.stream and bus.settings.subject to other names"
        )
    await jetstream.delete_stream(str(info.config.name))


class LogReader:
    """Pulls the messages of the stream through a consumer without acknowledgements."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self.connection, self.stream = connection, stream
        self.name = ""
        self._deliveries: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._failure = ""
        self._requested = 0
        self._expected = 1
        self._last_activity = self._created_at = time.monotonic()
        self._is_unrouted = False

    async def create_consumer(self, start: int) -> None:
        """Create the consumer; the server deletes it soon after the replica has ended."""
        for attempt in range(1, CONSUMER_ATTEMPTS + 1):
            self.name = f"replica-{uuid.uuid4().hex[:16]}"
            jetstream = self.connection.jetstream(timeout=CONSUMER_TIMEOUT * attempt)
            try:
                await honor_cancellation(jetstream.add_consumer(self.stream, self._config(start)))
            except TimeoutError:
                if attempt == CONSUMER_ATTEMPTS:
                    raise
            else:
                self._created_at = time.monotonic()
                return

    def _config(self, start: int) -> ConsumerConfig:
        return ConsumerConfig(
            name=self.name,
            description="A replica of Almenara follows the bus.",
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(start, 1),
            ack_policy=AckPolicy.NONE,
            inactive_threshold=INACTIVE_THRESHOLD,
            mem_storage=True,
            num_replicas=1,
        )

    async def delete_consumer(self) -> None:
        """Delete the consumer where the connection still works."""
        if not self.connection.is_connected or self.connection.is_suspect:
            return
        with suppress(NatsError, JetStreamError, PermissionDeniedError, TimeoutError, OSError):
            jetstream = self.connection.jetstream()
            await finish_within(CLOSE_TIMEOUT, jetstream.delete_consumer(self.stream, self.name))

    def accept(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Handle a message in the inbox: a delivery, or a status."""
        self._last_activity = time.monotonic()
        self._wake.set()
        delivery = parse_delivery(subject, reply, payload, headers)
        if delivery is not None:
            self._deliveries.append(delivery)
            self._requested -= 1
            return
        status = parse_status(headers)
        if status.code == HEARTBEAT:
            return
        # Every other status ends a request, and most are answered with the next one.
        self._requested = 0
        if is_unrouted(status, self._created_at):
            self._is_unrouted = True
        elif b"Deleted" in status.description or status.code == UNAVAILABLE:
            self._failure = f"the consumer of this replica does not respond: {status}"

    async def request(self, inbox: str) -> None:
        """Request more messages, unless enough are on their way."""
        if self._requested > BATCH // 4:
            return
        if self._is_unrouted:
            self._is_unrouted = False
            await asyncio.sleep(ROUTE_PAUSE)
        count = BATCH - max(self._requested, 0)
        request = {
            "batch": count,
            "max_bytes": max(BATCH_BYTES, self.connection.max_payload + HEADER_SPACE),
            "expires": int(REQUEST_LIFETIME * 1e9),
            "idle_heartbeat": int(IDLE_HEARTBEAT * 1e9),
        }
        self._requested = max(self._requested, 0) + count
        prefix = self.connection.api_prefix
        await self.connection.publish_noted(
            f"{prefix}.CONSUMER.MSG.NEXT.{self.stream}.{self.name}",
            msgspec.json.encode(request),
            reply=inbox,
        )

    async def next_messages(self) -> list[LogMessage]:
        """Return the messages that have arrived, after waiting for a while.

        Raises `NatsUnavailableError` where no more will arrive.
        """
        if not self._deliveries:
            await self._wait()
        messages = []
        while self._deliveries:
            delivery = self._deliveries.popleft()
            if delivery.consumer_sequence != self._expected:
                raise NatsUnavailableError(
                    f"delivery {self._expected} of the stream {self.stream} is missing"
                )
            self._expected += 1
            messages.append(LogMessage(delivery.stream_sequence, delivery.time, delivery.payload))
        return messages

    async def _wait(self) -> None:
        if self._failure:
            raise NatsUnavailableError(self._failure)
        if not self.connection.is_connected:
            raise NatsUnavailableError("the connection to NATS was lost")
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_HEARTBEAT):
                await self._wake.wait()
        silence = time.monotonic() - self._last_activity
        if silence > SILENCE:
            self.connection.is_suspect = True
            raise NatsUnavailableError(f"NATS has sent no heartbeat for {silence:.0f} s")


def build_stream_config(bus: JetStreamBusSettings) -> StreamConfig:
    """Return the configuration of the stream."""
    return StreamConfig(
        name=bus.stream,
        description="The bus of Almenara: every message is a batch of signals.",
        subjects=[bus.subject],
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        storage=StorageType(bus.storage),
        num_replicas=bus.replicas,
        max_age=bus.max_age,
        max_bytes=bus.max_bytes,
        duplicate_window=DUPLICATE_WINDOW,
        deny_delete=True,
        metadata=BUS_METADATA,
    )


def check_stream(info: StreamInfo, bus: JetStreamBusSettings) -> list[str]:
    """Return what is wrong with a stream, with a remedy each."""
    config, expected = info.config, build_stream_config(bus)
    problems = [
        f"Its {field} is {getattr(config, field)}, and the configuration has"
        f" {getattr(expected, field)}. Run `almenara streams apply`."
        for field in COMPARED_FIELDS
        if getattr(config, field) != getattr(expected, field)
    ]
    problems += [
        f"Its {field} is {getattr(config, field)}, and the bus needs {getattr(expected, field)},"
        " which cannot be changed. Set bus.settings.stream to another name."
        for field in FIXED_FIELDS
        if getattr(config, field) != getattr(expected, field)
    ]
    if is_leaderless(info):
        problems.append(f"It has no leader, so that nothing can be stored. {NO_LEADER_REMEDY}.")
    if (config.num_replicas or 1) < 3:
        problems.append(
            f"It has {config.num_replicas} copies, so that it is lost with a server. Set"
            " bus.settings.replicas to 3, on a cluster of three servers."
        )
    return problems


def describe_durability(info: StreamInfo) -> str:
    """Return what acknowledged messages of a stream survive."""
    copies = info.config.num_replicas or 1
    lost = (copies - 1) // 2
    text = (
        f"{copies} copies: acknowledged messages survive the loss of {lost} of the servers"
        if lost
        else "1 copy: acknowledged messages are lost with the disk of its server"
    )
    if info.config.storage == StorageType.MEMORY:
        return f"{text}. They are in memory, and lost when the other servers stop"
    return (
        f"{text}. A power failure of {lost + 1} at once can lose the messages of the last two"
        " minutes, unless the servers have `sync_interval: always` in `jetstream {}`, which cannot"
        " be read from here; sources that read streams of NATS read those messages again"
    )
