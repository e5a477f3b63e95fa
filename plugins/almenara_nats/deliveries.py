"""What the server sends to the inbox of a pull request: messages, and statuses that end it."""

import re
import time
from typing import Final

import msgspec

ACK_PREFIX: Final = b"$JS.ACK."
HEARTBEAT: Final = b"100"
ORDINARY_ENDS: Final = frozenset((b"404", b"408"))
"""Statuses of a request that ended in the ordinary way."""
UNAVAILABLE: Final = b"503"
ROUTE_TIME: Final = 2.0
"""Seconds in which all servers of a cluster learn which of them has a new consumer."""
ROUTE_PAUSE: Final = 0.05
"""Seconds between requests until then."""
EXCEEDED: Final = re.compile(rb"Exceeded MaxRequest(Batch|Expires|MaxBytes) of (\S+)")
LONGEST_LIMIT: Final = 18
"""Digits of a limit; one that is not a number of the protocol may have more."""
DURATION: Final = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)(h|ms|m|s)")
DURATION_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Delivery(msgspec.Struct):
    """A message of a consumer, as it arrived."""

    subject: str
    headers: bytes
    payload: bytes
    reply: str
    stream_sequence: int
    consumer_sequence: int
    time: int
    """When the server stored it, in nanoseconds since the epoch."""
    pending: int
    """Messages that wait behind it."""


class Status(msgspec.Struct):
    """A status message: `NATS/1.0 409 Consumer Deleted`."""

    code: bytes
    description: bytes

    def __str__(self) -> str:
        return self.description.decode(errors="replace")


def is_unrouted(status: Status, created_at: float) -> bool:
    """Whether no server accepted a request because the consumer, created at a time of
    `time.monotonic`, is too new to be known to the server of the connection."""
    return status.code == UNAVAILABLE and time.monotonic() - created_at < ROUTE_TIME


def parse_delivery(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> Delivery | None:
    """Return the delivery of a consumer; None for anything else, such as a status.

    The reply subject holds its place: `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.
    <consumer sequence>.<time>.<pending>`; newer servers put domain and account before the stream.
    """
    if not reply.startswith(ACK_PREFIX):
        return None
    parts = reply.split(b".")
    base = 2 if len(parts) == 9 else 4
    try:
        _, stream_sequence, consumer_sequence, moment, pending = map(
            int, parts[base + 2 : base + 7]
        )
    except ValueError:
        return None
    return Delivery(
        subject.decode("utf-8", "replace"),
        headers,
        payload,
        reply.decode(),
        stream_sequence,
        consumer_sequence,
        moment,
        pending,
    )


def parse_status(headers: bytes) -> Status:
    """Return the status in a header block."""
    line = headers.partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip()
    code, _, description = line.partition(b" ")
    return Status(code, description)


class RequestLimits(msgspec.Struct):
    """How large a pull request may be. What the server refuses with 409 makes them smaller."""

    batch: int
    expires: float
    """Seconds."""
    max_bytes: int

    def lower(self, status: Status) -> bool:
        """Adapt to the limit that a status names; False for any other status."""
        match = EXCEEDED.search(status.description)
        if match is None:
            return False
        limit = match[2].decode()
        if match[1] == b"Expires":
            self.expires = min(self.expires, parse_duration(limit) or self.expires)
        elif not limit.isdigit() or len(limit) > LONGEST_LIMIT:
            return False
        elif match[1] == b"Batch":
            self.batch = min(self.batch, max(int(limit), 1))
        else:
            self.max_bytes = min(self.max_bytes, max(int(limit), 1))
        return True


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as Go writes it, such as `1m30s`."""
    return sum(float(value) * DURATION_UNITS[unit] for value, unit in DURATION.findall(text))
