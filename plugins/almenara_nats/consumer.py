"""Creates the durable consumer of a stream where reading starts, within the server's limits."""

import re
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import msgspec
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    RetentionPolicy,
    StreamInfo,
)
from nats.js.errors import APIError, Error as JetStreamError, NotFoundError

from almenara.errors import AlmenaraError
from almenara.sdk import finish_within, honor_cancellation
from almenara.signals import EPOCH, parse_time
from almenara_nats.settings import NatsSettings

LEADER_PATIENCE: Final = 0.5
"""Seconds until the leader of a consumer counts as lost."""
ACK_PENDING_BATCHES: Final = 20
"""Batches that may be delivered and not yet acknowledged."""
LIMIT: Final = re.compile(r"max ack pending exceeds \w+ limit of (\d+)")
FROM_FIRST: Final[dict[str, Any]] = {"deliver_policy": DeliverPolicy.ALL}
NANOSECONDS: Final = 1_000


class Position(msgspec.Struct):
    """The last message of a stream that the bus has."""

    created: str
    """When the stream was created: a recreated stream counts from 1 again."""
    sequence: int
    time: int = 0
    """When the server stored that message, in nanoseconds. A message with this sequence and another
    time shows that the server was restored from an older copy. 0 if it is not known."""
    first: int = 0
    """The first message that the stream had when it was read for the first time; 0 where nothing
    was deleted before that."""
    is_rolled_back: bool = False
    """Whether the server is known to have been restored to before this position. Messages stored
    after `time` are new then, whatever their sequence."""


class CreatedConsumer(msgspec.Struct):
    """A consumer that has delivered nothing yet."""

    pending: int
    """Messages that wait for it, as far as the server reports it."""
    starts_at_position: bool
    """Whether it starts with the message at the position, which is compared with the known one."""


class ConsumerInUseError(AlmenaraError):
    """Another client reads through the consumer of that name."""


async def create_consumer(
    jetstream: JetStreamContext,
    settings: NatsSettings,
    info: StreamInfo,
    position: Position | None,
    *,
    respect_other_reader: bool = False,
) -> CreatedConsumer:
    """Create a consumer that has delivered nothing yet, at the position.

    Raises `ConsumerInUseError` and the errors of JetStream.
    """
    stream, durable = str(info.config.name), settings.durable
    is_interest = info.config.retention == RetentionPolicy.INTEREST
    must_know = is_interest or respect_other_reader
    finding = find_consumer(jetstream, stream, durable)
    try:
        existing = await (finding if must_know else finish_within(LEADER_PATIENCE, finding))
    except TimeoutError:
        if must_know:
            raise
        # The server that leads it has failed. A new consumer has a leader sooner than the old one.
        existing = None
    else:
        if respect_other_reader and existing is not None and existing.num_waiting:
            raise ConsumerInUseError(
                f"another client reads through the consumer {durable!r} of stream {stream}; set"
                " plugins.nats.durable to another name"
            )
        if (
            is_interest
            and existing is not None
            and await _reset(jetstream, stream, existing, position)
        ):
            return CreatedConsumer(pending=0, starts_at_position=False)
    with suppress(NotFoundError, TimeoutError):
        await finish_within(LEADER_PATIENCE, jetstream.delete_consumer(stream, durable))
    config = build_config(settings, info, position)
    created = await add_consumer(jetstream, stream, config)
    return CreatedConsumer(
        pending=created.num_pending or 0,
        starts_at_position=config.deliver_policy == DeliverPolicy.BY_START_SEQUENCE
        and position is not None
        and config.opt_start_seq == position.sequence,
    )


async def find_consumer(jetstream: JetStreamContext, stream: str, name: str) -> ConsumerInfo | None:
    """Return a consumer, or None where it does not exist."""
    try:
        return await honor_cancellation(jetstream.consumer_info(stream, name))
    except NotFoundError:
        return None


async def add_consumer(
    jetstream: JetStreamContext, stream: str, config: ConsumerConfig
) -> ConsumerInfo:
    """Create a consumer, with fewer unacknowledged messages where the server limits them."""
    try:
        return await honor_cancellation(jetstream.add_consumer(stream, config))
    except APIError as error:
        limit = LIMIT.search(error.description or "")
        if limit is None or int(limit[1]) < 1:
            raise
        config = config.evolve(max_ack_pending=int(limit[1]))
        return await honor_cancellation(jetstream.add_consumer(stream, config))


def build_config(
    settings: NatsSettings, info: StreamInfo, position: Position | None
) -> ConsumerConfig:
    """Return the configuration of the consumer that starts at the position."""
    is_queue = info.config.retention == RetentionPolicy.WORK_QUEUE
    start = FROM_FIRST if is_queue else choose_start(position, settings.start)
    return ConsumerConfig(
        durable_name=settings.durable,
        description="Almenara reads this stream; acknowledged messages are in its history.",
        ack_policy=AckPolicy.EXPLICIT if is_queue else AckPolicy.ALL,
        ack_wait=settings.ack_wait,
        max_ack_pending=settings.batch * ACK_PENDING_BATCHES,
        inactive_threshold=settings.inactive_threshold or None,
        **start,
    )


def choose_start(position: Position | None, start: str) -> dict[str, Any]:
    """Return where a consumer starts: at the position, or as the settings define."""
    if position is not None and position.is_rolled_back and position.time:
        moment = EPOCH + timedelta(microseconds=position.time // NANOSECONDS)
        return {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": moment}
    if position is not None and position.sequence > 0 and not position.is_rolled_back:
        # With a known time the message itself is delivered again, to be compared.
        first = position.sequence if position.time else position.sequence + 1
        return {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": first}
    if position is not None or start == "all":
        return FROM_FIRST
    if start == "new":
        return {"deliver_policy": DeliverPolicy.NEW}
    moment = EPOCH + timedelta(microseconds=parse_time(start))
    return {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": moment}


async def _reset(
    jetstream: JetStreamContext, stream: str, existing: ConsumerInfo, position: Position | None
) -> bool:
    """Reset a consumer in place; False where the server is too old for it.

    A stream that stores messages only while a consumer exists would drop those that arrive between
    the deletion of one consumer and the creation of the next.
    """
    if existing.config.ack_policy != AckPolicy.ALL or (position and position.is_rolled_back):
        return False
    acknowledged = existing.ack_floor.stream_seq if existing.ack_floor else 0
    start = max(position.sequence if position else 0, acknowledged) + 1
    try:
        await honor_cancellation(jetstream.reset_consumer(stream, existing.name, start))
    except JetStreamError:
        return False
    return True
