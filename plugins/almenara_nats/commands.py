"""`almenara streams` and `almenara publish`."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import click
import msgspec
from nats.errors import Error as NatsError, NoRespondersError
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, Error as JetStreamError, NoStreamResponseError, NotFoundError

from almenara.config import ConfigError
from almenara.hookspecs import SharedLog
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
from almenara_nats.settings import NatsSettings, StreamDefinition, is_subject

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


def parse_header_options(options: Sequence[str]) -> dict[str, str]:
    """Return the headers of `--header NAME=VALUE`. Raises `click.ClickException`."""
    headers = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise click.ClickException(f"--header {option!r} is not NAME=VALUE")
        headers[name] = value
    return headers


def commands(
    read_settings: Callable[[], Any], read_shared_log: Callable[[], SharedLog | None]
) -> Sequence[click.Command]:
    """The commands of the plugin."""

    @click.group()
    def streams() -> None:
        """Manage the streams of the configuration."""

    @streams.command()
    def apply() -> None:
        """Create or update the streams in plugins.nats.apply, and that of the bus."""
        settings, shared_log = read_settings(), read_shared_log()
        if not settings.apply and not isinstance(shared_log, JetStreamLog):
            raise click.ClickException(
                "No stream is configured; list them under plugins.nats.apply, each with a name and"
                " its subjects."
            )

        async def apply_all(settings: NatsSettings) -> list[StreamChange]:
            changes = await apply_streams(settings) if settings.apply else []
            if isinstance(shared_log, JetStreamLog):
                result = await shared_log.prepare()
                changes.append(StreamChange(shared_log.bus.stream, result))
            return changes

        for change in run_action(apply_all, read_settings):
            click.echo(f"{change.name}: {change.result}")

    @streams.command()
    def forget() -> None:
        """Delete the consumers of this installation, before it is uninstalled."""
        changes = run_action(forget_streams, read_settings)
        if not changes:
            click.echo(f"No stream has the consumer {read_settings().durable!r}.")
        for change in changes:
            click.echo(f"{change.name}: {change.result}")
        if any(change.result.startswith("kept") for change in changes):
            raise click.exceptions.Exit(1)

    @click.command()
    @click.argument("subject")
    @click.argument("payload", metavar="JSON")
    @click.option("--header", "-H", multiple=True, metavar="NAME=VALUE", help="Add a header.")
    @click.option("--raw", is_flag=True, help="Publish the text even if it is not JSON.")
    def publish(subject: str, payload: str, header: tuple[str, ...], raw: bool) -> None:
        """Publish a test event to a NATS subject."""
        try:
            msgspec.json.decode(payload)
        except (msgspec.MsgspecError, RecursionError) as error:
            if not raw:
                raise click.ClickException(
                    f"The payload is not JSON: {error}. Quote it for the shell, or publish it"
                    " unchanged with --raw."
                ) from None
        if not is_subject(subject):
            raise click.ClickException(
                f"{subject!r} is not a subject to publish to; write words separated by dots,"
                " without wildcards and spaces, such as orders.created"
            )
        headers = parse_header_options(header)

        async def send(settings: NatsSettings) -> str:
            return await publish_message(settings, subject, payload.encode(), headers)

        click.echo(run_action(send, read_settings))

    return [streams, publish]
