"""What a source in a process of its own and its supervisor tell one another.

Each message is msgpack behind its length in four bytes, over a pair of sockets.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.signals import Event, Resource, Sample, Signal

LENGTH: Final = 4
LONGEST: Final = 256 * 1024**2


class Carried(msgspec.Struct, array_like=True):
    """A signal on the wire; the payload of an event is JSON text there."""

    event: Event | None = None
    resource: Resource | None = None
    sample: Sample | None = None


class Start(msgspec.Struct, tag=True):
    """To the child: which source it runs, and with what."""

    plugin: str
    source: str
    settings: dict[str, Any]
    plugins_dir: Path | None
    data_dir: Path
    log_level: str


class Stop(msgspec.Struct, tag=True):
    """To the child: end."""


class Done(msgspec.Struct, tag=True):
    """To the child: the call of this number is done, with a value, or with why it could not be."""

    call: int
    value: bytes | None = None
    error: str | None = None


class Published(msgspec.Struct, tag=True):
    """From the child: a batch for the bus."""

    call: int
    signals: list[Carried]


class Saved(msgspec.Struct, tag=True):
    """From the child: a value to keep."""

    call: int
    key: str
    value: bytes


class Loaded(msgspec.Struct, tag=True):
    """From the child: a value to give back."""

    call: int
    key: str


class KnownResources(msgspec.Struct, tag=True):
    """From the child: which resources it told of, in this run or before."""

    call: int
    source: str
    kind: str


class Reported(msgspec.Struct, tag=True):
    """From the child: what the source says of itself."""

    what: str
    value: str | int | None = None


class Beat(msgspec.Struct, tag=True):
    """From the child: its event loop moves."""

    tasks: int
    newest: str
    memory: int


class Still(msgspec.Struct, tag=True):
    """From the child's second thread: its event loop stands still."""

    seconds: float
    stack: list[str]


class Ended(msgspec.Struct, tag=True):
    """From the child: the source has ended, with this error."""

    error: str | None


ToChild = Start | Stop | Done
FromChild = Published | Saved | Loaded | KnownResources | Reported | Beat | Still | Ended

encode = msgspec.msgpack.Encoder(enc_hook=str).encode
_to_child = msgspec.msgpack.Decoder(ToChild, dec_hook=lambda kind, value: kind(value)).decode
_from_child = msgspec.msgpack.Decoder(FromChild).decode


def framed(message: ToChild | FromChild) -> bytes:
    """The bytes of a message, its length in front."""
    body = encode(message)
    return len(body).to_bytes(LENGTH, "big") + body


async def _body(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(LENGTH), "big")
    if size > LONGEST:
        raise ValueError(f"a message of {size} bytes; {LONGEST} are taken at most")
    return await reader.readexactly(size)


async def read_from_child(reader: asyncio.StreamReader) -> FromChild:
    """The next message. Raises `asyncio.IncompleteReadError` at the end, and
    `msgspec.MsgspecError` or `ValueError` for what is none."""
    message: FromChild = _from_child(await _body(reader))
    return message


async def read_to_child(reader: asyncio.StreamReader) -> ToChild:
    """The next message. Raises `asyncio.IncompleteReadError` at the end."""
    message: ToChild = _to_child(await _body(reader))
    return message


def carried(batch: Sequence[Signal]) -> list[Carried]:
    """Signals for the wire. Raises `TypeError` or `ValueError` for a payload that is not JSON."""
    return [_carried(signal) for signal in batch]


def _carried(signal: Signal) -> Carried:
    if isinstance(signal, Event):
        data = msgspec.json.encode(signal.data)
        return Carried(event=msgspec.structs.replace(signal, data=data))
    if isinstance(signal, Resource):
        return Carried(resource=signal)
    if isinstance(signal, Sample):
        return Carried(sample=signal)
    raise TypeError(f"{type(signal).__name__} is not a signal: an Event, a Resource or a Sample")


def delivered(batch: Sequence[Carried]) -> list[Signal]:
    """The signals that were carried."""
    return [_delivered(it) for it in batch]


def _delivered(it: Carried) -> Signal:
    if it.event is not None:
        return msgspec.structs.replace(it.event, data=msgspec.Raw(it.event.data))
    signal = it.resource or it.sample
    if signal is None:
        raise ValueError("a signal without content came from a source's process")
    return signal
