"""Reads one stream: pulls its messages, publishes them, and acknowledges what is durable.

The consumer acknowledges everything up to a message at once, which is right only while no message
was left out. So every gap in the deliveries, a new connection or a changed stream recreates the
consumer behind the last message that the bus has. A work queue needs each message acknowledged by
itself and deletes it then: what is left in it is what the bus does not have.
"""

import asyncio
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import msgspec
import structlog
from nats.js.api import RetentionPolicy, StreamInfo

from almenara.errors import AlmenaraError
from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import finish_within
from almenara.signals import Event, Severity, now
from almenara_nats.binary_formats import ProtobufDecoder
from almenara_nats.client import Connection
from almenara_nats.consumer import Position, create_consumer
from almenara_nats.deliveries import (
    HEARTBEAT,
    ORDINARY_ENDS,
    ROUTE_PAUSE,
    UNAVAILABLE,
    Delivery,
    RequestLimits,
    is_unrouted,
    parse_delivery,
    parse_status,
)
from almenara_nats.mapping import KEY_PREFIX, parse_headers, read_messages
from almenara_nats.settings import NatsSettings

log = structlog.get_logger(__name__)

REQUEST_LIFETIME: Final = 30.0
SAVE_INTERVAL: Final = 1.0
SAVE_TIMEOUT: Final = 1.0
FIRST_PATIENCE: Final = 2.0
"""Seconds until a consumer is created again: a server that is frozen may have been chosen to lead
it. Twice as long after each time."""
WAIT: Final = 1.0
"""Seconds between two looks at how long the server has been silent."""
CONSUMER_DELETED: Final = "the consumer was deleted"
NANOSECONDS: Final = 1_000
REMEMBERED_IDS: Final = 20_000
"""Ids of a stream in which a repeat is recognised."""
ROLLED_BACK: Final = "nats.stream.rolled_back"
SOURCE_HEADER: Final = b"Nats-Stream-Source"
SEQUENCE: Final = re.compile(r"[0-9]{1,20}")
"""A sequence of a stream, which has 64 bits."""


class InterruptedReadError(AlmenaraError):
    """The consumer has to be recreated; the text gives the reason."""

    def __init__(self, reason: str, *, may_be_in_use: bool = False) -> None:
        super().__init__(reason)
        self.may_be_in_use = may_be_in_use
        """Whether another client may use the consumer."""


class RolledBackError(AlmenaraError):
    """The stream has another message at the position: it was restored from an older copy."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"another message has sequence {position.sequence}")
        self.position = position


class ReadBudget:
    """The bytes that all readers of a connection request at once.

    The server closes a connection on which too much is waiting to be sent (nats-server#520).
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.readers = 0

    @property
    def share(self) -> int:
        """Bytes that one reader may request."""
        return max(self.total // max(self.readers, 1), 1)


class RepeatFinder:
    """Finds the events of a stream whose publisher used the same id before."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, str] = OrderedDict()

    def mark(self, event: Event, place: str) -> Event:
        """Return the event, with `repeat_of` where an earlier message had the same id."""
        if event.id == place:
            return event
        key = hash((event.source, event.id))
        first = self._places.setdefault(key, place)
        if len(self._places) > REMEMBERED_IDS:
            self._places.popitem(last=False)
        if first == place:
            return event
        return msgspec.structs.replace(event, attributes={**event.attributes, "repeat_of": first})


class ReaderContext(msgspec.Struct):
    """What the readers of all streams share."""

    connection: Connection
    settings: NatsSettings
    context: Context
    publish: Publish
    report: SourceReport
    note_lag: Callable[[str, int], None]
    """Receives the messages that wait in a stream."""
    first_read: dict[str, int]
    """By stream: the first message that the stream had when it was read for the first time."""
    is_read_at_origin: Callable[[str, int, int], bool]
    """Whether a message of a stream, by its sequence there, is read from that stream; the last
    argument is when its copy was stored, in microseconds."""
    budget: ReadBudget
    protobuf: ProtobufDecoder


class StreamReader:
    """Reads one stream over one connection."""

    def __init__(
        self,
        shared: ReaderContext,
        stream: str,
        *,
        is_new: bool = False,
        respect_other_reader: bool = False,
    ) -> None:
        self.shared, self.stream = shared, stream
        self.connection, self.settings = shared.connection, shared.settings
        self.is_new = is_new
        """Whether the stream was created while the source ran, and is read from its start."""
        self.respect_other_reader = respect_other_reader
        """Whether to leave a consumer alone that another client seems to read through."""
        self.patience = FIRST_PATIENCE
        """Seconds until a request to the server is given up."""
        self._deliveries: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._requested = 0
        """Messages that the server may still deliver for the open requests."""
        self._delivered = 0
        """Messages delivered since the last request."""
        self._is_oversize = False
        """Whether the next message is larger than a request allows, and has to come alone."""
        self._is_healthy = False
        self._last_activity = self._created_at = time.monotonic()
        self._is_unrouted = False
        self._failure = ""
        self._saved = 0.0
        self._first = 0
        self._repeats = RepeatFinder()
        self._limits = RequestLimits(
            self.settings.batch * 2, REQUEST_LIFETIME, self.settings.batch_bytes
        )

    def recreate(self, *, respect_other_reader: bool = False) -> "StreamReader":
        """Return a new reader of the same stream, without any state of reading."""
        reader = StreamReader(
            self.shared, self.stream, is_new=self.is_new, respect_other_reader=respect_other_reader
        )
        reader.patience = self.patience
        return reader

    async def run(self, info: StreamInfo, on_healthy: Callable[[], None]) -> None:
        """Read until cancelled; `on_healthy` is called once the server delivers or is idle.

        Raises `InterruptedReadError`, `ConsumerInUseError` and the errors of the connection.
        """
        position = await self._load_position(info)
        self._first = info.state.first_seq if position is None else position.first
        self.shared.first_read[self.stream] = self._first
        if position is None and (self.is_new or self.settings.start == "new"):
            # Saved at once, so that messages that arrive while Almenara is stopped are read.
            sequence = 0 if self.is_new else info.state.last_seq
            position = Position(str(info.created), sequence)
            await self._save(position, at_once=True)
        if position is not None and position.is_rolled_back:
            await self._report_rollback(position, info)
        try:
            await self._read(info, position, on_healthy)
        except RolledBackError as error:
            position = error.position
            position.is_rolled_back = True
            await self._report_rollback(position, info)
            self._requested = 0
            self._deliveries.clear()
            await self._read(info, position, on_healthy)

    async def _read(
        self, info: StreamInfo, position: Position | None, on_healthy: Callable[[], None]
    ) -> None:
        is_queue = info.config.retention == RetentionPolicy.WORK_QUEUE
        consumer = await create_consumer(
            self.connection.jetstream(timeout=self.patience),
            self.settings,
            info,
            position,
            respect_other_reader=self.respect_other_reader,
        )
        self.shared.note_lag(self.stream, consumer.pending)
        inbox = self.connection.new_inbox()
        unsubscribe = await self.connection.subscribe_raw(inbox, self._accept)
        self.shared.budget.readers += 1
        self._last_activity = self._created_at = time.monotonic()
        expected = 1
        try:
            while True:
                await self._request(inbox)
                if self._is_healthy:
                    on_healthy()
                if not self._deliveries:
                    await self._wait()
                    continue
                batch = self._next_batch()
                if consumer.starts_at_position and expected == 1 and position is not None:
                    is_known = is_at_position(batch[0], position)
                else:
                    is_known = False
                expected = check_gaps(batch, expected)
                await self._publish(batch[1:] if is_known else batch)
                last = batch[-1]
                for delivery in batch if is_queue else [last]:
                    await self.connection.publish_noted(delivery.reply, b"+ACK")
                self.shared.note_lag(self.stream, last.pending)
                position = Position(
                    str(info.created), last.stream_sequence, last.time, first=self._first
                )
                await self._save(position)
        finally:
            self.shared.budget.readers -= 1
            await unsubscribe()
            if position is not None and not position.is_rolled_back:
                # While the bus waits for its servers, reading must end and start again all the
                # same: without this position, messages are read twice and stored once.
                with suppress(TimeoutError):
                    await finish_within(SAVE_TIMEOUT, self._save(position, at_once=True))

    def _accept(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Handle a message in the inbox: a delivery, or a status."""
        self._last_activity = time.monotonic()
        self._wake.set()
        delivery = parse_delivery(subject, reply, payload, headers)
        if delivery is not None:
            self._deliveries.append(delivery)
            self._requested -= 1
            self._delivered += 1
            self._is_healthy = True
            self._is_oversize = False
            return
        status = parse_status(headers)
        if status.code == HEARTBEAT:
            self._is_healthy = True
            return
        # Every other status ends a request; most are answered with the next request.
        self._requested = 0
        if is_unrouted(status, self._created_at):
            self._is_unrouted = True
            return
        if b"Message Size" in status.description:
            self._is_oversize = self._delivered == 0
        elif self._limits.lower(status):
            log.info("the server limits requests", stream=self.stream, limit=str(status))
        elif (
            status.code not in ORDINARY_ENDS
            and b"Completed" not in status.description
            and not self._delivered
        ):
            self._failure = f"the server refuses to deliver: {status}"
        if b"Consumer Deleted" in status.description or b"No Responders" in status.description:
            self._failure = CONSUMER_DELETED
        elif status.code == UNAVAILABLE:
            self._failure = "the stream does not respond"

    async def _request(self, inbox: str) -> None:
        """Request more messages, unless enough are on their way or waiting."""
        if self._is_unrouted:
            self._is_unrouted = False
            await asyncio.sleep(ROUTE_PAUSE)
        limit = self._limits.batch
        if self._requested > limit // 4 or len(self._deliveries) > self.settings.batch:
            return
        batch = 1 if self._is_oversize else max(limit - self._requested, 1)
        self._delivered = 0
        request = {
            "batch": batch,
            "expires": int(self._limits.expires * 1e9),
            "idle_heartbeat": int(min(self.settings.heartbeat, self._limits.expires / 3) * 1e9),
        }
        if not self._is_oversize:
            request["max_bytes"] = min(self._limits.max_bytes, self.shared.budget.share)
        self._requested += batch
        prefix = self.connection.api_prefix
        subject = f"{prefix}.CONSUMER.MSG.NEXT.{self.stream}.{self.settings.durable}"
        await self.connection.publish_noted(subject, msgspec.json.encode(request), reply=inbox)

    async def _wait(self) -> None:
        """Wait for a message or a status. Raises `InterruptedReadError` when reading failed."""
        if self._failure:
            raise InterruptedReadError(
                self._failure, may_be_in_use=self._failure == CONSUMER_DELETED
            )
        self._wake.clear()
        try:
            async with asyncio.timeout(min(self.settings.heartbeat, WAIT)):
                await self._wake.wait()
        except TimeoutError:
            silence = time.monotonic() - self._last_activity
            if silence > self.settings.heartbeat * 2 + 1:
                raise InterruptedReadError(f"no heartbeat for {silence:.0f} s") from None

    def _next_batch(self) -> list[Delivery]:
        count = min(len(self._deliveries), self.settings.batch)
        return [self._deliveries.popleft() for _ in range(count)]

    async def _publish(self, batch: list[Delivery]) -> None:
        events = [
            event
            for delivery in batch
            if not self._is_copy(delivery)
            for event in self._read_events(delivery)
        ]
        if not events:
            return
        if problems := sum(event.problem is not None for event in events):
            self.shared.report.rejected(problems)
        # Each message may be a batch of many.
        for start in range(0, len(events), self.settings.batch):
            await self.shared.publish(events[start : start + self.settings.batch])

    def _is_copy(self, delivery: Delivery) -> bool:
        """Whether a message was copied from a stream (`sources`) from which it is read too."""
        if SOURCE_HEADER not in delivery.headers:
            return False
        origin = parse_origin(parse_headers(delivery.headers))
        return origin is not None and self.shared.is_read_at_origin(
            *origin, delivery.time // NANOSECONDS
        )

    def _read_events(self, delivery: Delivery) -> list[Event]:
        received = delivery.time // NANOSECONDS
        by_place = self.settings.deduplicate_by == "message"
        events = read_messages(
            delivery.subject,
            parse_headers(delivery.headers),
            delivery.payload,
            stream=self.stream,
            sequence=delivery.stream_sequence,
            received=received,
            raw_limit=self.settings.raw_limit,
            data_limit=self.settings.data_limit,
            by_place=by_place,
            protobuf=self.shared.protobuf,
        )
        if not by_place:
            return events
        return [
            self._repeats.mark(event, event.deduplication_key.removeprefix(KEY_PREFIX))
            for event in events
        ]

    async def _load_position(self, info: StreamInfo) -> Position | None:
        stored = await self.shared.context.load(f"position/{self.stream}")
        if stored is None:
            return None
        position = msgspec.json.decode(stored, type=Position)
        if position.created != str(info.created):
            log.warning("a stream was recreated and is read from its start", stream=self.stream)
            return Position(str(info.created), 0)
        position.is_rolled_back = position.sequence > info.state.last_seq
        return position

    async def _save(self, position: Position, *, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self._saved >= SAVE_INTERVAL:
            self._saved = time.monotonic()
            key = f"position/{self.stream}"
            await self.shared.context.save(key, msgspec.json.encode(position))

    async def _report_rollback(self, position: Position, info: StreamInfo) -> None:
        """Report that the server was restored from a copy older than the position."""
        log.warning(
            "a stream was restored from an older copy; messages stored since are read",
            stream=self.stream,
            position=position.sequence,
        )
        event = Event(
            id=f"{self.stream}/{position.sequence}/{position.time}",
            source=f"nats/{self.stream}",
            origin=f"nats/{self.stream}",
            type=ROLLED_BACK,
            subject=self.stream,
            time=now(),
            severity=Severity.WARN,
            data={
                "message": "The stream was restored from a copy older than what is in history."
                " Messages stored since are read; some in history are no longer in the stream.",
                "remedy": "Nothing is to be done in Almenara. Check what else used the stream.",
                "read_sequence": position.sequence,
                "last_sequence": info.state.last_seq,
            },
        )
        await self.shared.publish([event])


def parse_origin(headers: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the stream of this account that a message was copied from, and its sequence there.

    The header has the stream, with a hash where it is in another account or domain, the sequence,
    the filter, the transform and the subject.
    https://docs.nats.io/nats-concepts/jetstream/headers
    """
    name, _, rest = headers.get(SOURCE_HEADER.decode().lower(), "").partition(" ")
    sequence = rest.partition(" ")[0]
    # Older servers store the header as any publisher sets it.
    if not name or ":" in name or not SEQUENCE.fullmatch(sequence):
        return None
    return name, int(sequence)


def check_gaps(batch: list[Delivery], expected: int) -> int:
    """Return the consumer sequence that follows the batch. Raises `InterruptedReadError` where a
    delivery is missing."""
    for delivery in batch:
        if delivery.consumer_sequence != expected:
            raise InterruptedReadError(
                f"delivery {expected} is missing, {delivery.consumer_sequence} was received",
                may_be_in_use=True,
            )
        expected += 1
    return expected


def is_at_position(delivery: Delivery, position: Position) -> bool:
    """Whether a delivery is the message that the bus has already. Raises `RolledBackError` where
    another message has its sequence."""
    if delivery.stream_sequence != position.sequence:
        return False
    if delivery.time != position.time:
        raise RolledBackError(position)
    return True
