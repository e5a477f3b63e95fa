"""What `almenara doctor` checks of NATS: the connection, the account, streams and consumers."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal

from nats.errors import Error as NatsError
from nats.js.api import RetentionPolicy, StreamInfo
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import Finding
from almenara_nats.binary_formats import ProtobufDecoder
from almenara_nats.client import Connection, connected
from almenara_nats.consumer import Position, add_consumer, build_config, find_consumer
from almenara_nats.errors import (
    NatsUnavailableError,
    PermissionDeniedError,
    describe_nats_error,
    suggest_jetstream_remedy,
)
from almenara_nats.jetstream import StreamList, describe_internal_use, list_streams
from almenara_nats.settings import NatsSettings
from almenara_nats.stream_manager import describe_read_error, select_streams

NEARLY_FULL: Final = 0.9
SLOW: Final = 0.25

RequestFailed = (NatsError, JetStreamError, PermissionDeniedError, TimeoutError)


async def diagnose(settings: NatsSettings) -> Sequence[Finding]:
    """Return the findings. Each check that fails is one of them and ends no other."""
    schemas = await asyncio.to_thread(check_schemas, settings)
    try:
        async with connected(settings) as connection:
            return [
                *schemas,
                await check_connection(connection),
                *await check_account(connection),
                *await check_streams(connection, settings),
            ]
    except NatsUnavailableError as error:
        return [
            *schemas,
            Finding(
                check="NATS connection",
                verdict="failed",
                message=str(error),
                remedy="Nothing else of NATS could be checked.",
            ),
        ]


def check_schemas(settings: NatsSettings) -> list[Finding]:
    """Return a finding for each schema of Protobuf that cannot be used."""
    return [
        Finding(
            check="Protobuf schemas",
            verdict="failed",
            message=problem,
            remedy="Fix plugins.nats.protobuf. The messages are stored undecoded until then.",
        )
        for problem in ProtobufDecoder(settings.protobuf).load()
    ]


def describe_failure(check: str, error: Exception) -> Finding:
    """Return the finding of a JetStream request that failed."""
    return Finding(
        check=check,
        verdict="failed",
        message=describe_nats_error(error),
        remedy=f"{suggest_jetstream_remedy(error)}.",
    )


async def check_connection(connection: Connection) -> Finding:
    """Return how fast the server answers."""
    start = time.perf_counter()
    try:
        await connection.flush()
    except RequestFailed as error:
        return describe_failure("NATS connection", error)
    duration = time.perf_counter() - start
    version = connection.server_info.get("version")
    message = f"nats-server {version} answers in {duration * 1000:.1f} ms"
    if duration > SLOW:
        return Finding(
            check="NATS connection",
            verdict="warning",
            message=message,
            remedy="Check the network between Almenara and the server, and the server's load.",
        )
    return Finding(check="NATS connection", verdict="ok", message=message)


async def check_account(connection: Connection) -> list[Finding]:
    """Return how much of the account's limits is used. Reading needs no right to know it."""
    try:
        info = await connection.jetstream().account_info()
    except PermissionDeniedError as error:
        return [
            Finding(
                check="account limits",
                verdict="ok",
                message=f"not checked: {error}; reading does not need it",
            )
        ]
    except RequestFailed as error:
        return [describe_failure("JetStream", error)]
    findings = []
    for name, used, limit in (
        ("file storage", info.storage, info.limits.max_storage),
        ("memory storage", info.memory, info.limits.max_memory),
        ("streams", info.streams, info.limits.max_streams),
        ("consumers", info.consumers, info.limits.max_consumers),
    ):
        is_limited = limit is not None and limit >= 0
        is_nearly_full = is_limited and used >= limit * NEARLY_FULL
        verdict: Literal["ok", "warning"] = "warning" if is_nearly_full else "ok"
        findings.append(
            Finding(
                check=f"account limit: {name}",
                verdict=verdict,
                message=f"{used:,} of {limit:,} used" if is_limited else f"{used:,} used, no limit",
                remedy="Raise the limit of the account." if is_nearly_full else "",
            )
        )
    return findings


async def check_streams(connection: Connection, settings: NatsSettings) -> list[Finding]:
    """Return a finding for each stream that is read, missing, offline or different."""
    try:
        listing = await list_streams(connection)
    except RequestFailed as error:
        return [describe_failure("list of streams", error)]
    names = listing.streams.keys() | listing.offline.keys()
    findings = [
        Finding(
            check=f"stream {name}",
            verdict="failed",
            message="it does not exist",
            remedy="Create it with `almenara streams apply`, or correct plugins.nats.streams.",
        )
        for name in settings.streams
        if name not in names
    ]
    findings += [
        Finding(
            check=f"stream {name}",
            verdict="failed",
            message=f"it is offline: {reason}",
            remedy="Start the servers that store it; `nats stream report` lists them.",
        )
        for name, reason in listing.offline.items()
    ]
    findings += check_definitions(listing, settings)
    selected = select_streams(listing.streams, settings)
    if not listing.offline and not settings.streams and not settings.apply:
        findings += check_event_streams(listing.streams, settings)
    for name, info in listing.streams.items():
        if name in selected:
            findings.append(await check_stream(connection, info, settings))
        elif info.config.retention == RetentionPolicy.WORK_QUEUE and not settings.streams:
            findings.append(
                Finding(
                    check=f"stream {name}",
                    verdict="ok",
                    message=f"{describe_size(info)}; a work queue, whose messages are left to its"
                    " workers",
                )
            )
    return findings


def check_event_streams(streams: Mapping[str, StreamInfo], settings: NatsSettings) -> list[Finding]:
    """Return a finding where the account has no stream of events."""
    uses = [describe_internal_use(name, info) for name, info in streams.items()]
    if not all(uses):
        return []
    counts = ", ".join(f"{use} ({number})" for use, number in Counter(uses).items())
    return [
        Finding(
            check="streams",
            verdict="ok" if settings.subjects else "warning",
            message="the account has no stream of events" + (f", only {counts}" if counts else ""),
            remedy=""
            if settings.subjects
            else "Create the streams of your applications, or configure them under"
            " plugins.nats.apply and run `almenara streams apply`.",
        )
    ]


def check_definitions(listing: StreamList, settings: NatsSettings) -> list[Finding]:
    """Return the streams of `apply` that do not exist, or differ from the settings."""
    return [
        Finding(
            check=f"stream {definition.name}",
            verdict="warning",
            message="it does not exist yet"
            if info is None
            else "it differs from plugins.nats.apply",
            remedy="Run `almenara streams apply`.",
        )
        for definition in settings.apply
        if definition.name not in listing.offline
        and (
            (info := listing.streams.get(definition.name)) is None
            or sorted(info.config.subjects or []) != sorted(definition.subjects)
        )
    ]


def describe_size(info: StreamInfo) -> str:
    """Return the number of messages of a stream, and its subjects."""
    subjects = ", ".join(info.config.subjects or [])
    return f"{info.state.messages:,} messages on {subjects or 'no subject'}"


async def check_stream(connection: Connection, info: StreamInfo, settings: NatsSettings) -> Finding:
    """Return whether a stream is read, or can be read: where it is not read yet, its consumer is
    created for a moment."""
    name, size = str(info.config.name), describe_size(info)
    check = f"stream {name}"
    jetstream = connection.jetstream()
    try:
        consumer = await find_consumer(jetstream, name, settings.durable)
        if consumer is None:
            end = Position(str(info.created), info.state.last_seq)
            await add_consumer(jetstream, name, build_config(settings, info, end))
            with suppress(*RequestFailed):
                await jetstream.delete_consumer(name, settings.durable)
            return Finding(check=check, verdict="ok", message=f"{size}; not read yet")
    except RequestFailed as error:
        return Finding(
            check=check,
            verdict="failed",
            message=describe_read_error(name, error),
            remedy="Almenara cannot read this stream until this is fixed.",
        )
    return Finding(
        check=check,
        verdict="ok",
        message=f"{size}; {consumer.num_pending or 0:,} not read yet",
    )
