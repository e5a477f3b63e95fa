"""What `almenara streams` and `almenara publish` do at a server."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import click
import msgspec
from nats.errors import Error as NatsError, NoRespondersError
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, Error as JetStreamError, NoStreamResponseError, NotFoundError

from almenara.config import ConfigError
from almenara_nats.bus_log import JetStreamLog
from almenara_nats.client import connected
from almenara_nats.consumer import find_consumer
from almenara_nats.errors import (
    NatsUnavailableError,
    PermissionDeniedError,
    describe_nats_error,
    suggest_jetstream_remedy,
)
from almenara_nats.jetstream import list_streams
from almenara_nats.settings import NatsSettings, StreamDefinition

T = TypeVar("T")

COMPARED_FIELDS: Final = (
    "subjects",
    "num_replicas",
    "max_age",
    "max_bytes",
    "duplicate_window",
)
"""What `apply` changes in an existing stream; the storage of a stream cannot be changed."""


class StreamChange(msgspec.Struct, frozen=True):
    """The result for one stream."""

    name: str
    result: str


async def apply_streams(settings: NatsSettings) -> list[StreamChange]:
    """Create or update the streams of `settings.apply`.

    Raises `NatsUnavailableError`, and `nats.js.errors.APIError` where the server refuses one.
    """
    changes = []
    async with connected(settings) as connection:
        jetstream = connection.jetstream()
        for definition in settings.apply:
            config = build_stream_config(definition)
            try:
                current = (await jetstream.stream_info(definition.name)).config
            except NotFoundError:
                await jetstream.add_stream(config)
                changes.append(StreamChange(definition.name, "created"))
                continue
            different = [
                field
                for field in COMPARED_FIELDS
                if getattr(current, field) != getattr(config, field)
            ]
            if different:
                values = {field: getattr(config, field) for field in different}
                await jetstream.update_stream(current.evolve(**values))
            result = f"updated ({', '.join(different)})" if different else "unchanged"
            changes.append(StreamChange(definition.name, result))
    return changes


async def apply_all(settings: NatsSettings, bus: JetStreamLog | None) -> list[StreamChange]:
    """Create or update the streams of `settings.apply`, then that of the bus."""
    changes = await apply_streams(settings) if settings.apply else []
    if bus is not None:
        changes.append(StreamChange(bus.bus.stream, await bus.prepare()))
    return changes


async def forget_streams(settings: NatsSettings) -> list[StreamChange]:
    """Delete the consumer of this installation in every stream that has one and where nothing
    reads through it.

    Raises `NatsUnavailableError` and the errors of JetStream.
    """
    changes = []
    async with connected(settings) as connection:
        jetstream = connection.jetstream()
        listing = await list_streams(connection)
        for stream in sorted(listing.streams):
            consumer = await find_consumer(jetstream, stream, settings.durable)
            if consumer is None:
                continue
            if consumer.num_waiting:
                result = f"kept, because a client reads through {settings.durable!r}; stop it first"
                changes.append(StreamChange(stream, result))
                continue
            with suppress(NotFoundError):
                await jetstream.delete_consumer(stream, settings.durable)
            changes.append(StreamChange(stream, f"consumer {settings.durable!r} deleted"))
        changes += [
            StreamChange(stream, "kept, because the stream is offline")
            for stream in sorted(listing.offline)
        ]
    return changes


def build_stream_config(definition: StreamDefinition) -> StreamConfig:
    """Return the configuration that is sent to the server."""
    return StreamConfig(
        name=definition.name,
        subjects=definition.subjects,
        storage=StorageType(definition.storage),
        num_replicas=definition.replicas,
        max_age=definition.max_age,
        max_bytes=definition.max_bytes,
        duplicate_window=definition.duplicate_window,
    )


async def publish_message(
    settings: NatsSettings, subject: str, payload: bytes, headers: dict[str, str]
) -> str:
    """Publish one message and return the result in a sentence."""
    async with connected(settings) as connection:
        try:
            ack = await connection.jetstream().publish(
                subject, payload, headers=headers or None, timeout=settings.connect_timeout
            )
        except (NoStreamResponseError, NoRespondersError):
            await connection.publish(subject, payload, headers=headers or None)
            await connection.flush()
            return (
                f"No stream stores {subject}; it was published on core NATS, and only current"
                " subscribers received it."
            )
        return f"Stored in {ack.stream} as message {ack.seq}."


def run_action(
    action: Callable[[NatsSettings], Coroutine[Any, Any, T]], read_settings: Callable[[], Any]
) -> T:
    """Run an action of a command; its errors become messages for the terminal."""
    try:
        return asyncio.run(action(read_settings()))
    except (ConfigError, NatsUnavailableError) as error:
        raise click.ClickException(str(error)) from None
    except APIError as error:
        raise click.ClickException(f"NATS refuses: {describe_nats_error(error)}") from None
    except (NatsError, JetStreamError, PermissionDeniedError, TimeoutError) as error:
        raise click.ClickException(
            f"NATS failed: {describe_nats_error(error)}. {suggest_jetstream_remedy(error)}."
        ) from None
