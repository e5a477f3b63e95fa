"""How a signal is written into the embedded log and read back."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

import msgspec
import structlog

from almenara.bus import Record
from almenara.bus.names import NO_NAMESPACE, NameCache, StoredName
from almenara.bus.validation import InvalidSignalError, check_signal, describe_signal
from almenara.errors import describe_error
from almenara.signals import Event, Resource, Sample, Severity, Signal

log = structlog.get_logger(__name__)

EVENT_COLUMNS: Final = (
    "e.sequence, e.id, e.source, e.origin, e.type, e.subject, e.time, e.severity, e.correlation,"
    " e.attributes, e.problem, e.raw, e.data, e.checksum"
)
LOGGED: Final = 10
"""Rows that cannot be decoded and are logged each; further ones are only counted."""
OBSERVATION_COLUMNS: Final = "sequence, body, checksum"
SEVERITIES: Final = {int(severity): severity for severity in Severity}
NAMESPACE_ATTRIBUTE: Final = "namespace"

Redact = Callable[[Signal], Signal]
"""Returns a signal with its secrets masked."""

decode_attributes = msgspec.json.Decoder(dict[str, str]).decode
check_json = msgspec.json.Decoder().decode
encode = msgspec.json.encode


class Observation(msgspec.Struct, omit_defaults=True):
    """The body of a row in `observations`: exactly one of the two."""

    resource: Resource | None = None
    sample: Sample | None = None


decode_observation = msgspec.json.Decoder(Observation).decode


def event_key(event: Event) -> bytes:
    """Return the identity of an event for deduplication: 16 bytes of its `deduplication_key`, or of
    its `source` and `id` where it has none."""
    identity = event.deduplication_key or f"{event.source}\0{event.id}"
    return blake2b(identity.encode(), digest_size=16).digest()


def normalize(signal: Signal, origin: str, redact: Redact | None = None) -> Signal:
    """Return a signal as the log stores it: checked, masked, with an origin and with data as JSON.

    Raises `InvalidSignalError` where a field is wrong or cannot be stored.
    """
    check_signal(signal)
    try:
        masked = signal if redact is None else redact(signal)
        if isinstance(masked, Event):
            return _normalize_event(masked, origin)
        # Encoding is the only test of a state; the row is encoded again with its origin.
        encode(masked)
        return masked if masked.origin else msgspec.structs.replace(masked, origin=origin)
    except InvalidSignalError:
        raise
    except Exception as error:
        # Whatever a plugin's own classes raise while they are written: it is the plugin's fault.
        raise InvalidSignalError(
            f"{describe_signal(signal)} cannot be stored: {_locate(signal)}{describe_error(error)}"
        ) from error


def _locate(signal: Signal) -> str:
    """The name of the field that cannot be encoded, with a colon; empty where none is at fault."""
    for name in signal.__struct_fields__:
        if name == "data":
            continue
        try:
            encode(getattr(signal, name))
        except Exception:
            return f"{name}: "
    return ""


def _normalize_event(event: Event, origin: str) -> Event:
    data = event.data
    try:
        if isinstance(data, msgspec.Raw):
            # The bytes stay as they came: decoding would change numbers and repeated keys.
            check_json(data)
        else:
            data = msgspec.Raw(encode(data))
        if not (content := bytes(data)).isascii():
            content.decode()
    except Exception as error:
        raise InvalidSignalError(
            f"{describe_signal(event)}: data is not JSON: {describe_error(error)}"
        ) from error
    attributes = event.attributes
    text = (
        f"{event.id}{event.source}{event.type}{event.subject}{event.origin}{event.correlation}"
        f"{event.problem}{event.deduplication_key}"
    )
    # A copy: the publisher may go on to use its own, also where it is still empty.
    attributes = dict(attributes) if attributes else {}
    if attributes:
        text = "".join((text, *attributes, *attributes.values()))
    if not text.isascii():
        # Half of a surrogate pair can be in a text of Python, and can't be stored.
        _check_encodable(event)
    return msgspec.structs.replace(
        event, data=data, origin=event.origin or origin, attributes=attributes
    )


def _check_encodable(event: Event) -> None:
    texts = (
        event.id, event.source, event.type, event.subject, event.origin, event.correlation or "",
        event.problem or "", event.deduplication_key, *event.attributes,
        *event.attributes.values(),
    )  # fmt: skip
    "\0".join(texts).encode()


def event_row(sequence: int, event: Event, number: Callable[[str], StoredName]) -> tuple[Any, ...]:
    """Return the row of a normalized event; `number` gives the number of a name."""
    identity, source, origin, kind = event.id, event.source, event.origin, event.type
    subject, time, severity = event.subject, event.time, int(event.severity)
    correlation, problem, raw = event.correlation, event.problem, event.raw
    attributes, namespace = None, ""
    if event.attributes:
        attributes = encode(event.attributes).decode()
        namespace = event.attributes.get(NAMESPACE_ATTRIBUTE, "")
    data = bytes(event.data)
    # The same bytes as those of `event_checksum`, without decoding the payload once more.
    content = (
        f"{sequence}\0{identity}\0{source}\0{origin}\0{kind}\0{subject}\0{time}\0{severity}\0"
        f"{correlation}\0{attributes}\0{problem}\0"
    ).encode("utf-8", "surrogateescape")
    return (
        sequence,
        identity,
        number(source),
        number(origin),
        number(kind),
        subject,
        time,
        severity,
        correlation,
        attributes,
        problem,
        raw,
        data.decode(),
        number(namespace) if namespace else NO_NAMESPACE,
        crc32(raw or b"", crc32(data, crc32(content))),
    )


def event_checksum(sequence: int, event: Event, attributes: str | None, data: str) -> int:
    """Return the CRC-32 of everything that a row and its names say of an event.

    SQLite notices a damaged page only where its structure is wrong; this notices the rest.
    """
    text = (
        f"{sequence}\0{event.id}\0{event.source}\0{event.origin}\0{event.type}\0{event.subject}\0"
        f"{event.time}\0{int(event.severity)}\0{event.correlation}\0{attributes}\0{event.problem}\0"
        f"{data}"
    )
    return crc32(event.raw or b"", crc32(text.encode("utf-8", "surrogateescape")))


def observation_row(sequence: int, signal: Resource | Sample) -> tuple[int, int, str, int]:
    """Return the row of a resource or a sample."""
    body = (
        Observation(resource=signal) if isinstance(signal, Resource) else Observation(sample=signal)
    )
    encoded = encode(body)
    return sequence, signal.time, encoded.decode(), crc32(encoded)


class RowDecoder:
    """Turns rows into records. A row that cannot be decoded is counted, logged and left out.

    One row that a fault of the disk, or an earlier version, left behind must not take the page, the
    export or the start with it.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.names = NameCache()
        self.skipped = 0
        self._is_quiet = is_quiet
        self._lock = threading.Lock()

    def events(
        self, connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]
    ) -> list[Record]:
        """Return the records of rows of `EVENT_COLUMNS`."""
        known, text = self.names.known.get, self.names.text
        records: list[Record] = []
        for row in rows:
            try:
                event = Event(
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
                )
                _check_event(row, event)
                records.append(Record(row[0], event))
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
                self.skip(row[0], error)
        return records

    def entries(
        self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Return those rows of at least `EVENT_COLUMNS` that can be decoded, as entries of a block:
        without the checksum and what follows, and with names as text.
        """
        known, text = self.names.known.get, self.names.text
        entries: list[tuple[Any, ...]] = []
        for row in rows:
            sequence, identity, source, origin, kind, subject, time, severity = row[:8]
            correlation, attributes, problem, raw, data, checksum = row[8:14]
            try:
                source = known(source) or text(connection, source)
                origin = known(origin) or text(connection, origin)
                kind = known(kind) or text(connection, kind)
                content = (
                    f"{sequence}\0{identity}\0{source}\0{origin}\0{kind}\0{subject}\0{time}\0"
                    f"{severity}\0{correlation}\0{attributes}\0{problem}\0{data}"
                ).encode("utf-8", "surrogateescape")
                # With the right checksum it is as it was written, and needs no further test.
                if checksum != crc32(raw or b"", crc32(content)) and not self.events(
                    connection, [row[:14]]
                ):
                    continue
            except (LookupError, TypeError, ValueError) as error:
                self.skip(sequence, error)
                continue
            entries.append((sequence, identity, source, origin, kind, *row[5:13]))
        return entries

    def observations(self, rows: Iterable[tuple[int, str, int | None]]) -> list[Record]:
        """Return the records of rows of `OBSERVATION_COLUMNS`."""
        records: list[Record] = []
        for sequence, body, checksum in rows:
            try:
                records.append(Record(sequence, _decode_observation(body, checksum)))
            except (TypeError, ValueError, RecursionError) as error:
                self.skip(sequence, error)
        return records

    def skip(self, sequence: int, error: BaseException, signals: int = 1) -> None:
        """Count signals that cannot be read; the first are logged."""
        with self._lock:
            is_logged = self.skipped < LOGGED
            self.skipped += signals
        if is_logged and not self._is_quiet:
            log.error(
                "a stored signal cannot be read and is left out; run `almenara storage check`",
                sequence=sequence,
                error=describe_error(error),
            )


def _check_event(row: tuple[Any, ...], event: Event) -> None:
    checksum = row[13]
    if checksum is None:
        # From before schema 4: it must at least be JSON, or the response that embeds it is invalid.
        check_json(event.data)
        if row[10] is not None and type(row[10]) is not str:
            raise TypeError("the problem is not text")
    elif checksum != event_checksum(row[0], event, row[9], row[12]):
        raise ValueError("the checksum does not match: the row was changed on the disk")


def _decode_observation(body: str, checksum: int | None) -> Resource | Sample:
    if checksum is not None and checksum != crc32(body.encode()):
        raise ValueError("the checksum does not match: the row was changed on the disk")
    observation = decode_observation(body)
    signal = observation.resource or observation.sample
    if signal is None:
        raise ValueError("the row holds neither a resource nor a sample")
    return signal


def read_latest_observations(
    connection: sqlite3.Connection, limit: int, decoder: RowDecoder | None = None
) -> list[Record]:
    """Return the last `limit` records of resources and samples, in order."""
    rows = connection.execute(
        f"SELECT {OBSERVATION_COLUMNS} FROM observations ORDER BY sequence DESC LIMIT ?",  # nosec B608 # constant fragments, bound values
        (limit,),
    ).fetchall()
    return (decoder or RowDecoder()).observations(reversed(rows))
