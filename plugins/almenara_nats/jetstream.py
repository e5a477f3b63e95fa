"""Lists of the JetStream API, with what the client library leaves out: the parts without an answer.

API: https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

import json
from typing import Any, Final

import msgspec
from nats.errors import NoRespondersError
from nats.js.api import ConsumerInfo, StreamInfo
from nats.js.errors import APIError, ServiceUnavailableError

from almenara.sdk import honor_cancellation
from almenara_nats.client import Connection
from almenara_nats.kinds import BUS, BUS_METADATA, INTERNAL_PREFIXES

PAGE: Final = 256
"""Entries that the server puts into one response."""
REQUEST_TIMEOUT: Final = 5.0
NO_ANSWER: Final = "no server that stores it responds"


class StreamList(msgspec.Struct):
    """The streams of an account."""

    streams: dict[str, StreamInfo]
    """The streams whose figures are right, by name."""
    offline: dict[str, str]
    """The streams without a server that knows their figures, with the reason. The server lists
    some of them all the same, with zeros for every figure."""


class ConsumerList(msgspec.Struct):
    """The consumers of a stream."""

    consumers: list[ConsumerInfo]
    offline: set[str]
    """Consumers whose figures no server knows."""


async def request_jetstream(
    connection: Connection, subject: str, request: dict[str, Any]
) -> dict[str, Any]:
    """Return the response of the JetStream API. Raises `nats.js.errors.APIError`, `TimeoutError`
    and `PermissionDeniedError`."""
    payload = json.dumps(request).encode()
    try:
        message = await honor_cancellation(
            connection.request(subject, payload, timeout=REQUEST_TIMEOUT)
        )
    except NoRespondersError:
        raise ServiceUnavailableError from None
    response: dict[str, Any] = json.loads(message.data)
    if "error" in response:
        raise APIError.from_error(response["error"])
    return response


async def list_streams(connection: Connection) -> StreamList:
    """Return all streams of the account. Raises as `request_jetstream` does."""
    listing = StreamList({}, {})
    offset = 0
    while True:
        response = await request_jetstream(
            connection, f"{connection.api_prefix}.STREAM.LIST", {"offset": offset}
        )
        entries = response.get("streams") or []
        listing.offline.update(_offline_names(response))
        for entry in entries:
            name = str(entry["config"]["name"])
            if name not in listing.offline:
                listing.streams[name] = StreamInfo.from_response(entry)
        offset += len(entries)
        if not entries or offset >= response.get("total", offset):
            return listing


async def list_consumers(connection: Connection, stream: str) -> ConsumerList:
    """Return all consumers of a stream. Raises as `request_jetstream` does."""
    listing = ConsumerList([], set())
    offset = 0
    while True:
        response = await request_jetstream(
            connection, f"{connection.api_prefix}.CONSUMER.LIST.{stream}", {"offset": offset}
        )
        entries = response.get("consumers") or []
        listing.offline.update(_offline_names(response))
        listing.consumers += [
            ConsumerInfo.from_response(entry)
            for entry in entries
            # Of an offline consumer, the server knows neither the name nor any figure.
            if entry.get("name") and entry["name"] not in listing.offline
        ]
        offset += len(entries)
        if not entries or offset >= response.get("total", offset):
            return listing


def _offline_names(response: dict[str, Any]) -> dict[str, str]:
    """`missing` lists names without an answer, `offline` (2.12) those that are not supported."""
    missing = {str(name): NO_ANSWER for name in response.get("missing") or []}
    unsupported = response.get("offline") or {}
    return missing | {str(name): str(reason) for name, reason in unsupported.items()}


def is_bus(info: StreamInfo) -> bool:
    """Whether a stream is the bus of an installation: what it has was read already."""
    return (info.config.metadata or {}).items() >= BUS_METADATA.items()


def describe_internal_use(name: str, info: StreamInfo) -> str:
    """Return what a stream stores that is no stream of events; empty for one that is."""
    if is_bus(info):
        return BUS
    return next((use for prefix, use in INTERNAL_PREFIXES.items() if name.startswith(prefix)), "")
