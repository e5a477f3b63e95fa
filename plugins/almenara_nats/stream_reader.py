"""Follows one stream: pulls its messages, publishes them, and acknowledges what is durable.

The consumer acknowledges everything up to a message at once, which is right only as long as no
message was left out. So every gap in the deliveries, a new connection or a changed stream makes
the consumer anew behind the last message that the bus has. A work queue wants each message
acknowledged by itself, and drops it then: what is left in it is what the bus has not.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    RetentionPolicy,
    StreamInfo,
)
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import honor_cancellation
from almenara.signals import EPOCH, Event, parse_time
from almenara_nats.client import Connection
from almenara_nats.mapping import parse_headers, read_message
from almenara_nats.settings import NatsSettings

log = structlog.get_logger(__name__)

EXPIRES: Final = 30.0
SAVE_INTERVAL: Final = 1.0
HEARTBEAT: Final = b"100"
ENDINGS: Final = frozenset((b"404", b"408"))
"""Statuses that end a request in the ordinary way."""
CONSUMER_GONE: Final = "the consumer is gone"
FROM_THE_START: Final[dict[str, Any]] = {"deliver_policy": DeliverPolicy.ALL}
MICROSECOND: Final = 1_000


class Position(msgspec.Struct):
    """The last message of a stream that the bus has."""

    created: str
    """When the stream was created: a stream made anew counts from 1 again."""
    sequence: int


class Delivery(msgspec.Struct):
    """A message as it came."""

    subject: str
    headers: bytes
    payload: bytes
    reply: str
    stream_sequence: int
    consumer_sequence: int
    time: int
    pending: int


class Interrupted(Exception):  # noqa: N818
    """The consumer has to be made anew; the text says why."""

    def __init__(self, reason: str, *, taken: bool = False) -> None:
        super().__init__(reason)
        self.taken = taken
        """Whether somebody else may have taken the consumer."""


class ContestedError(Exception):
    """Somebody else reads through the consumer of that name."""


class Follower:
    """Reads one stream over one connection."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        settings: NatsSettings,
        context: Context,
        publish: Publish,
        report: SourceReport,
        lag: Callable[[str, int], None],
        *,
        newborn: bool = False,
        wary: bool = False,
    ) -> None:
        self.connection, self.stream, self.settings = connection, stream, settings
        self.context, self.publish, self.report, self.lag = context, publish, report, lag
        self.newborn = newborn
        """Whether the stream came into being before our eyes, and is read from its start."""
        self.wary = wary
        """Whether to leave a consumer alone that somebody else seems to read through."""
        self._arrived: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._asked = 0
        self._answers = 0
        self._oversize = False
        self._well = False
        self._heard = time.monotonic()
        self._trouble: str | None = None
        self._saved = 0.0

    def anew(self, *, wary: bool = False) -> "Follower":
        """A follower of the same stream that remembers nothing."""
        return Follower(
            self.connection,
            self.stream,
            self.settings,
            self.context,
            self.publish,
            self.report,
            self.lag,
            newborn=self.newborn,
            wary=wary,
        )

    async def run(self, info: StreamInfo, ready: Callable[[], None]) -> None:
        """Follow until cancelled; `ready` is called once the server delivers or is silent well.

        Raises `Interrupted`, `ContestedError` and the errors of the connection.
        """
        jetstream = self.connection.jetstream()
        created = str(info.created)
        alone = info.config.retention == RetentionPolicy.WORK_QUEUE
        position = await self._position(created, info)
        if position is None and (self.newborn or self.settings.start == "new"):
            # Noted at once, so that what comes while we are away is not taken for old.
            position = Position(created, 0 if self.newborn else info.state.last_seq)
            await self._save(position, now=True)
        await self._make_consumer(jetstream, position, info)
        inbox = self.connection.new_inbox()
        unfollow = await self.connection.follow(inbox, self._take)
        self._heard = time.monotonic()
        expected = 1
        try:
            while True:
                await self._ask(inbox)
                if self._well:
                    ready()
                if not self._arrived:
                    await self._wait()
                    continue
                batch = self._next_batch()
                for delivery in batch:
                    if delivery.consumer_sequence != expected:
                        raise Interrupted(
                            f"delivery {expected} is missing, {delivery.consumer_sequence} came",
                            taken=True,
                        )
                    expected += 1
                await self._publish(batch)
                last = batch[-1]
                for delivery in batch if alone else [last]:
                    await self.connection.publish(delivery.reply, b"+ACK")
                self.lag(self.stream, last.pending)
                position = Position(created, last.stream_sequence)
                await self._save(position)
        finally:
            await unfollow()
            if position is not None:
                await self._save(position, now=True)

    def _take(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self._heard = time.monotonic()
        delivery = delivered(subject, reply, payload, headers)
        if delivery is not None:
            self._arrived.append(delivery)
            self._asked -= 1
            self._answers += 1
            self._well = True
            self._oversize = False
            self._wake.set()
            return
        status, description = status_of(headers)
        if status == HEARTBEAT:
            self._well = True
            self._wake.set()
            return
        # Every other word ends a request; asking again is the answer to all but two of them.
        self._asked = 0
        if b"Message Size" in description:
            # A message alone is longer than what was asked for: it has to come without a bound.
            self._oversize = self._answers == 0
        elif status not in ENDINGS and b"Completed" not in description and not self._answers:
            self._trouble = f"the server refuses to deliver: {description.decode(errors='replace')}"
        if b"Consumer Deleted" in description or b"No Responders" in description:
            self._trouble = CONSUMER_GONE
        elif status == b"503":
            self._trouble = "the stream does not answer"
        self._wake.set()

    async def _ask(self, inbox: str) -> None:
        if self._asked > self.settings.batch // 2 or len(self._arrived) > self.settings.batch:
            return
        batch = 1 if self._oversize else self.settings.batch * 2 - self._asked
        most = max(self.settings.batch_bytes, 2 * self.connection.max_payload)
        self._answers = 0
        request = {
            "batch": batch,
            **({} if self._oversize else {"max_bytes": most}),
            "expires": int(EXPIRES * 1e9),
            "idle_heartbeat": int(self.settings.heartbeat * 1e9),
        }
        self._asked += batch
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.settings.durable}"
        await self.connection.publish(subject, msgspec.json.encode(request), reply=inbox)

    async def _wait(self) -> None:
        if self._trouble is not None:
            raise Interrupted(self._trouble, taken=self._trouble == CONSUMER_GONE)
        self._wake.clear()
        try:
            async with asyncio.timeout(self.settings.heartbeat):
                await self._wake.wait()
        except TimeoutError:
            silence = time.monotonic() - self._heard
            if silence > self.settings.heartbeat * 2 + 1:
                raise Interrupted(f"no sign of life for {silence:.0f} s") from None

    def _next_batch(self) -> list[Delivery]:
        count = min(len(self._arrived), self.settings.batch)
        return [self._arrived.popleft() for _ in range(count)]

    async def _publish(self, batch: list[Delivery]) -> None:
        events = [self._read(delivery) for delivery in batch]
        if problems := sum(event.problem is not None for event in events):
            self.report.rejected(problems)
        await self.publish(events)

    def _read(self, delivery: Delivery) -> Event:
        return read_message(
            delivery.subject,
            parse_headers(delivery.headers),
            delivery.payload,
            stream=self.stream,
            sequence=delivery.stream_sequence,
            received=delivery.time // MICROSECOND,
            raw_limit=self.settings.raw_limit,
            data_limit=self.settings.data_limit,
        )

    async def _position(self, created: str, info: StreamInfo) -> Position | None:
        stored = await self.context.load(f"position/{self.stream}")
        if stored is None:
            return None
        position = msgspec.json.decode(stored, type=Position)
        if position.created != created or position.sequence > info.state.last_seq:
            log.warning("a stream was made anew and is read from its start", stream=self.stream)
            return Position(created, 0)
        return position

    async def _save(self, position: Position, *, now: bool = False) -> None:
        if now or time.monotonic() - self._saved >= SAVE_INTERVAL:
            self._saved = time.monotonic()
            key = f"position/{self.stream}"
            await self.context.save(key, msgspec.json.encode(position))

    async def _make_consumer(
        self, jetstream: JetStreamContext, position: Position | None, info: StreamInfo
    ) -> None:
        """A consumer that has delivered nothing yet, behind the position."""
        durable = self.settings.durable
        try:
            before = await honor_cancellation(jetstream.consumer_info(self.stream, durable))
        except NotFoundError:
            before = None
        if before is not None:
            if self.wary and before.num_waiting:
                raise ContestedError(
                    f"another reader uses consumer {durable!r} of stream {self.stream}; give this"
                    " Almenara a name of its own with plugins.nats.durable"
                )
            if info.config.retention == RetentionPolicy.INTEREST and await self._reset(
                jetstream, before, position
            ):
                return
            with contextlib.suppress(NotFoundError):
                await honor_cancellation(jetstream.delete_consumer(self.stream, durable))
        queue = info.config.retention == RetentionPolicy.WORK_QUEUE
        config = ConsumerConfig(
            durable_name=durable,
            description="Almenara reads this stream; what is acknowledged is in its history.",
            ack_policy=AckPolicy.EXPLICIT if queue else AckPolicy.ALL,
            ack_wait=self.settings.ack_wait,
            max_ack_pending=self.settings.batch * 20,
            **(FROM_THE_START if queue else starting(position, self.settings.start)),
        )
        await honor_cancellation(jetstream.add_consumer(self.stream, config))

    async def _reset(
        self, jetstream: JetStreamContext, before: ConsumerInfo, position: Position | None
    ) -> bool:
        """Set a consumer back in place; False where the server is too old to know how.

        A stream that keeps messages only while somebody is interested would drop those that come
        between the end of one consumer and the making of the next.
        """
        if before.config.ack_policy != AckPolicy.ALL:
            return False
        acknowledged = before.ack_floor.stream_seq if before.ack_floor else 0
        start = max(position.sequence if position else 0, acknowledged) + 1
        try:
            await honor_cancellation(
                jetstream.reset_consumer(self.stream, self.settings.durable, start)
            )
        except JetStreamError:
            return False
        return True


def starting(position: Position | None, start: str) -> dict[str, Any]:
    """Where a consumer begins: behind the position, or where the settings say."""
    if position is not None and position.sequence > 0:
        return {
            "deliver_policy": DeliverPolicy.BY_START_SEQUENCE,
            "opt_start_seq": position.sequence + 1,
        }
    if position is not None or start == "all":
        return FROM_THE_START
    if start == "new":
        return {"deliver_policy": DeliverPolicy.NEW}
    moment = EPOCH + timedelta(microseconds=parse_time(start))
    return {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": moment}


def delivered(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> Delivery | None:
    """The delivery of a consumer; None for what is not one, a status for example.

    The reply subject tells the rest: `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream
    sequence>.<consumer sequence>.<time>.<pending>`, with domain and account in newer servers.
    """
    if not reply.startswith(b"$JS.ACK."):
        return None
    parts = reply.split(b".")
    base = 2 if len(parts) == 9 else 4
    try:
        _, stream_sequence, consumer_sequence, moment, pending = map(
            int, parts[base + 2 : base + 7]
        )
    except ValueError:
        return None
    return Delivery(
        subject.decode("utf-8", "replace"),
        headers,
        payload,
        reply.decode(),
        stream_sequence,
        consumer_sequence,
        moment,
        pending,
    )


def status_of(headers: bytes) -> tuple[bytes, bytes]:
    """Code and description of a status: `NATS/1.0 409 Consumer Deleted`."""
    line = headers.partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip()
    code, _, description = line.partition(b" ")
    return code, description
