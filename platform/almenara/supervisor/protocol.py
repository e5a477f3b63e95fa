"""The protocol between the supervisor and a source in a process of its own.

A message is a msgpack struct behind its length in four bytes (big endian), over a socket pair.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.bus import wire
from almenara.bus.codec import normalize
from almenara.bus.validation import check_batch
from almenara.bus.wire import WireSignal
from almenara.signals import Signal

LENGTH: Final = 4
LARGEST: Final = 256 * 1024**2


class Start(msgspec.Struct, tag=True):
    """To the child: which source it runs, and with which settings."""

    plugin: str
    source: str
    settings: dict[str, Any]
    plugins_dir: Path | None
    data_dir: Path
    log_level: str


class Stop(msgspec.Struct, tag=True):
    """To the child: stop the source and exit."""


class Reply(msgspec.Struct, tag=True):
    """To the child: the result of the call with this number, or why it failed."""

    call: int
    value: bytes | None = None
    error: str | None = None


class Publish(msgspec.Struct, tag=True):
    """From the child: a batch for the bus."""

    call: int
    signals: list[WireSignal]


class Save(msgspec.Struct, tag=True):
    """From the child: a value to store."""

    call: int
    key: str
    value: bytes


class Load(msgspec.Struct, tag=True):
    """From the child: request for a stored value."""

    call: int
    key: str


class ListResources(msgspec.Struct, tag=True):
    """From the child: request for the resources a source has published, also in earlier runs."""

    call: int
    source: str
    kind: str


class Report(msgspec.Struct, tag=True):
    """From the child: a report of the source (`SourceReport`)."""

    what: str
    value: str | int | None = None


class Alive(msgspec.Struct, tag=True):
    """From the child: its event loop runs."""

    tasks: int
    commonest_task: str
    memory: int


class Blocked(msgspec.Struct, tag=True):
    """From the child's second thread: its event loop is blocked."""

    seconds: float
    stack: list[str]


class Exit(msgspec.Struct, tag=True):
    """From the child: the source has ended, with this error."""

    error: str | None


ToChild = Start | Stop | Reply
FromChild = Publish | Save | Load | ListResources | Report | Alive | Blocked | Exit

encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode_to_child = msgspec.msgpack.Decoder(ToChild, dec_hook=lambda kind, value: kind(value)).decode
_decode_from_child = msgspec.msgpack.Decoder(FromChild).decode


def encode_frame(message: ToChild | FromChild) -> bytes:
    """The bytes of a message, behind its length."""
    body = encode(message)
    return len(body).to_bytes(LENGTH, "big") + body


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(LENGTH), "big")
    if size > LARGEST:
        raise ValueError(f"a message of {size:,} bytes; at most {LARGEST:,} are accepted")
    return await reader.readexactly(size)


async def read_from_child(reader: asyncio.StreamReader) -> FromChild:
    """The next message. Raises `asyncio.IncompleteReadError` at the end, and
    `msgspec.MsgspecError` or `ValueError` for bytes that are not a message."""
    message: FromChild = _decode_from_child(await _read_frame(reader))
    return message


async def read_to_child(reader: asyncio.StreamReader) -> ToChild:
    """The next message. Raises `asyncio.IncompleteReadError` at the end."""
    message: ToChild = _decode_to_child(await _read_frame(reader))
    return message


def to_wire(batch: Sequence[Signal]) -> list[WireSignal]:
    """Signals for the wire, checked as the bus checks them. Raises `ValueError`."""
    check_batch(batch)
    return [wire.to_wire(normalize(signal, "")) for signal in batch]


def from_wire(batch: Sequence[WireSignal]) -> list[Signal]:
    """The signals of a message. Raises `ValueError` for an entry without any."""
    return [wire.from_wire(entry) for entry in batch]
