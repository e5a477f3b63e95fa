"""How a signal is written into the embedded log and read back."""

import hashlib
import math
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from almenara.bus import Record
from almenara.signals import Event, Resource, Sample, Severity, Signal

EVENT_COLUMNS: Final = (
    "e.sequence, e.id, e.source, e.origin, e.type, e.subject, e.time, e.severity, e.correlation,"
    " e.attributes, e.problem, e.raw, e.data"
)
NAMES_REMEMBERED: Final = 20_000
SEVERITIES: Final = {int(severity): severity for severity in Severity}
LARGEST_INTEGER: Final = 2**63 - 1

decode_attributes = msgspec.json.Decoder(dict[str, str]).decode
check_json = msgspec.json.Decoder().decode
encode = msgspec.json.encode


class Observation(msgspec.Struct, omit_defaults=True):
    """The body of a row in `observations`: exactly one of the two."""

    resource: Resource | None = None
    sample: Sample | None = None


decode_observation = msgspec.json.Decoder(Observation).decode


def event_key(event: Event) -> bytes:
    """The identity of an event, as deduplication remembers it: 16 bytes of `source` and `id`."""
    return hashlib.blake2b(f"{event.source}\0{event.id}".encode(), digest_size=16).digest()


def normalize(signal: Signal, origin: str) -> Signal:
    """The signal as the log keeps it: with an origin, and an event's data as JSON text.

    Raises `ValueError` where a field cannot be written, naming the field and the signal.
    """
    if not isinstance(signal, Event):
        return _normalize_observation(signal, origin)
    event, data = signal, signal.data
    try:
        if isinstance(data, msgspec.Raw):
            decoded = check_json(data)
            if b"\\u" in bytes(data):
                # Escaped letters would hide from the text search.
                data = msgspec.Raw(encode(decoded))
        else:
            data = msgspec.Raw(encode(data))
        bytes(data).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"data of event {event.id!r} is not JSON: {error}") from error
    try:
        "\0".join(
            (
                event.id,
                event.source,
                event.type,
                event.subject,
                event.origin,
                event.correlation or "",
                event.problem or "",
            )
        ).encode()
        encode(event.attributes)
        _check_time(event.time)
    except (TypeError, ValueError) as error:
        raise ValueError(f"event {event.id!r} cannot be kept: {error}") from error
    if data is event.data and event.origin:
        return event
    return msgspec.structs.replace(event, data=data, origin=event.origin or origin)


def _normalize_observation(signal: Resource | Sample, origin: str) -> Resource | Sample:
    try:
        _check_time(signal.time)
        if isinstance(signal, Sample):
            _check_value(signal.value)
        encode(signal)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
        kind = type(signal).__name__.lower()
        raise ValueError(f"{kind} {signal.kind} {signal.name!r} cannot be kept: {error}") from error
    return signal if signal.origin else msgspec.structs.replace(signal, origin=origin)


def _check_value(value: float) -> None:
    # As JSON these would be null, and nobody could read the log from there on.
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"value {value!r} is no finite number")


def _check_time(time: int) -> None:
    if not -LARGEST_INTEGER <= time <= LARGEST_INTEGER:
        raise ValueError(f"time {time} is no 64-bit number of microseconds")


def event_row(sequence: int, event: Event, number: Callable[[str], int]) -> tuple[Any, ...]:
    """The row of a settled event; `number` gives the number of a name."""
    return (
        sequence,
        event.id,
        number(event.source),
        number(event.origin),
        number(event.type),
        event.subject,
        event.time,
        int(event.severity),
        event.correlation,
        encode(event.attributes).decode() if event.attributes else None,
        event.problem,
        event.raw,
        bytes(event.data).decode(),
    )


class Names:
    """The texts behind the numbers in events; a number never changes its text."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def text(self, connection: sqlite3.Connection, number: int) -> str:
        """The text of a number, read once."""
        text = self.known.get(number)
        if text is None:
            (text,) = connection.execute(
                "SELECT text FROM names WHERE number = ?", (number,)
            ).fetchone()
            if len(self.known) >= NAMES_REMEMBERED:
                self.known.clear()
            self.known[number] = text
        return str(text)


def event_records(
    connection: sqlite3.Connection, found: Iterable[tuple[Any, ...]], names: Names
) -> list[Record]:
    """The records of rows of `EVENT_COLUMNS`."""
    known, text = names.known.get, names.text
    return [
        Record(
            row[0],
            Event(
                id=row[1],
                source=known(row[2]) or text(connection, row[2]),
                origin=known(row[3]) or text(connection, row[3]),
                type=known(row[4]) or text(connection, row[4]),
                subject=row[5],
                time=row[6],
                severity=SEVERITIES[row[7]],
                correlation=row[8],
                attributes=decode_attributes(row[9]) if row[9] else {},
                problem=row[10],
                raw=row[11],
                data=msgspec.Raw(row[12].encode()),
            ),
        )
        for row in found
    ]


def observation_row(sequence: int, signal: Resource | Sample) -> tuple[int, int, str]:
    """The row of a resource or a sample."""
    body = (
        Observation(resource=signal) if isinstance(signal, Resource) else Observation(sample=signal)
    )
    return sequence, signal.time, encode(body).decode()


def read_after(
    connection: sqlite3.Connection, after: int, limit: int, names: Names
) -> list[Record]:
    """Up to `limit` records that follow the sequence `after`, in order."""
    events = connection.execute(
        f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.sequence > ? ORDER BY e.sequence LIMIT ?",  # nosec B608 # constant fragments, bound values
        (after, limit),
    ).fetchall()
    observations = connection.execute(
        "SELECT sequence, body FROM observations WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    ).fetchall()
    records = event_records(connection, events, names)
    records += [observation_record(row) for row in observations]
    records.sort(key=lambda record: record.sequence)
    return records[:limit]


def read_latest_observations(connection: sqlite3.Connection, limit: int) -> list[Record]:
    """The last `limit` records of resources and samples, in order."""
    found = connection.execute(
        "SELECT sequence, body FROM observations ORDER BY sequence DESC LIMIT ?", (limit,)
    ).fetchall()
    return [observation_record(row) for row in reversed(found)]


def observation_record(row: tuple[int, str]) -> Record:
    """The record of a row in `observations`."""
    observation = decode_observation(row[1])
    signal = observation.resource or observation.sample
    if signal is None:
        raise ValueError(f"the observation {row[0]} holds neither a resource nor a sample")
    return Record(row[0], signal)
