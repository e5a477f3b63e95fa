"""`almenara streams` and `almenara publish`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError
from nats.js.errors import Error as JetStreamError

from almenara.config import ConfigError
from almenara_nats.client import NatsUnavailableError, connected, sentence
from almenara_nats.settings import NatsSettings, StreamDefinition


class StreamChange(msgspec.Struct, frozen=True):
    """What became of one stream."""

    name: str
    done: str


async def apply_streams(settings: NatsSettings) -> list[StreamChange]:
    """Create or update the streams of `settings.apply`.

    Raises `NatsUnavailableError`, and `nats.js.errors.APIError` where the server refuses one.
    """
    changes = []
    async with connected(settings) as connection:
        jetstream = connection.jetstream()
        for wanted in settings.apply:
            config = stream_config(wanted)
            try:
                before = (await jetstream.stream_info(wanted.name)).config
            except NotFoundError:
                await jetstream.add_stream(config)
                changes.append(StreamChange(wanted.name, "created"))
                continue
            different = [
                name
                for name in ("subjects", "num_replicas", "max_age", "max_bytes", "duplicate_window")
                if getattr(before, name) != getattr(config, name)
            ]
            if different:
                await jetstream.update_stream(before.evolve(**{
                    name: getattr(config, name) for name in different
                }))  # fmt: skip
            done = f"updated ({', '.join(different)})" if different else "already right"
            changes.append(StreamChange(wanted.name, done))
    return changes


def stream_config(wanted: StreamDefinition) -> StreamConfig:
    """The configuration that the server is asked for."""
    return StreamConfig(
        name=wanted.name,
        subjects=wanted.subjects,
        storage=StorageType(wanted.storage),
        num_replicas=wanted.replicas,
        max_age=wanted.max_age,
        max_bytes=wanted.max_bytes,
        duplicate_window=wanted.duplicate_window,
    )


async def publish_message(
    settings: NatsSettings, subject: str, payload: bytes, headers: dict[str, str]
) -> str:
    """Publish one message; what became of it, in a sentence."""
    async with connected(settings) as connection:
        try:
            ack = await connection.jetstream().publish(
                subject, payload, headers=headers or None, timeout=settings.connect_timeout
            )
        except (NoStreamResponseError, NoRespondersError):
            await connection.publish(subject, payload, headers=headers or None)
            await connection.flush()
            return (
                f"No stream takes {subject}; it was published on core NATS, and only who listens"
                " at this moment got it."
            )
        return f"Stored in {ack.stream} as message {ack.seq}."


def commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    """The commands of the plugin."""

    def run(action: Callable[[NatsSettings], Any]) -> Any:
        try:
            return asyncio.run(action(read_settings()))
        except (ConfigError, NatsUnavailableError) as error:
            raise click.ClickException(str(error)) from None
        except APIError as error:
            raise click.ClickException(
                f"NATS refuses: {error.description} (code {error.err_code})"
            ) from None
        except (NatsError, JetStreamError, TimeoutError) as error:
            raise click.ClickException(f"NATS did not do it: {sentence(error)}") from None

    @click.group()
    def streams() -> None:
        """Look after the streams that are configured."""

    @streams.command()
    def apply() -> None:
        """Create or update the streams in plugins.nats.apply."""
        if not read_settings().apply:
            raise click.ClickException(
                "No stream is configured; list them under plugins.nats.apply, each with a name and"
                " its subjects."
            )
        for change in run(apply_streams):
            click.echo(f"{change.name}: {change.done}")

    @click.command()
    @click.argument("subject")
    @click.argument("payload", metavar="JSON")
    @click.option("--header", "-H", multiple=True, metavar="NAME=VALUE", help="A header.")
    @click.option("--raw", is_flag=True, help="Publish the text even where it is not JSON.")
    def publish(subject: str, payload: str, header: tuple[str, ...], raw: bool) -> None:
        """Publish a test event."""
        try:
            msgspec.json.decode(payload)
        except (msgspec.MsgspecError, RecursionError) as error:
            if not raw:
                raise click.ClickException(
                    f"The payload is not JSON: {error}. Quote it for the shell, or publish it as"
                    " it is with --raw."
                ) from None
        headers = {}
        for text in header:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise click.ClickException(f"--header {text!r} is not NAME=VALUE")
            headers[name] = value
        click.echo(run(lambda it: publish_message(it, subject, payload.encode(), headers)))

    return [streams, publish]
