"""The NATS plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from almenara.config import Secret
from almenara.signals import parse_time

Positive = Annotated[float, msgspec.Meta(gt=0)]
DURABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
Count = Annotated[int, msgspec.Meta(ge=1)]


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """TLS towards the servers."""

    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    certificate: Path | None = None
    """File with the client certificate."""
    key: Path | None = None
    """File with the key of the client certificate."""
    hostname: str | None = None
    """Name that the servers' certificates must carry, where it is not the one in the address."""


class StreamDefinition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A stream that `almenara streams apply` creates or updates."""

    name: str
    """Name of the stream."""
    subjects: list[str]
    """Subjects it takes, wildcards allowed."""
    storage: Literal["file", "memory"] = "file"
    """Where the server keeps it."""
    replicas: Count = 1
    """Servers that keep a copy."""
    max_age: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds that messages are kept; 0 for ever."""
    max_bytes: int = -1
    """Bytes it may hold; -1 for no limit."""
    duplicate_window: Positive = 120.0
    """Seconds within which a repeated Nats-Msg-Id is dropped by the server."""


class NatsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where NATS is, and what to read from it."""

    servers: list[str] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    """Addresses of the servers of one account; `tls://` for TLS."""
    credentials: Path | None = None
    """Credentials file of a user."""
    nkey: Path | None = None
    """File with an nkey seed."""
    user: str | None = None
    """User name."""
    password: Secret | None = None
    """Password."""
    token: Secret | None = None
    """Token, in place of a user."""
    tls: TlsSettings | None = None
    """TLS with own certificates."""
    streams: list[str] = []
    """Streams to read; empty reads every stream but key-value buckets and object stores."""
    subjects: list[str] = []
    """Core NATS subjects to read besides; at most once, as core NATS has no memory."""
    start: str = "all"
    """Where to begin in a stream that was never read: `all`, `new`, or an RFC 3339 time."""
    durable: str = "almenara"
    """Name of the consumer in each stream; two installations on one account need two names."""
    batch: Count = 500
    """Messages handed to the bus at once, at most."""
    batch_bytes: Count = 16 * 1024**2
    """Bytes of messages asked for at once; never less than the server's largest message twice."""
    ack_wait: Positive = 30.0
    """Seconds after which the server sends unacknowledged messages again."""
    heartbeat: Annotated[float, msgspec.Meta(gt=0, le=15)] = 5.0
    """Seconds between signs of life of an idle stream; two missing ones start it anew."""
    rescan: Positive = 2.0
    """Seconds between looks for new and changed streams."""
    observe: Positive = 5.0
    """Seconds between samples of streams and consumers."""
    stalled_after: Positive = 60.0
    """Seconds a consumer with work may go without progress before it is called stalled."""
    ping_interval: Count = 2
    """Seconds between pings."""
    max_outstanding_pings: Count = 2
    """Pings that may go unanswered before a connection is given up."""
    name: str = "almenara"
    """Name of the connection, as the server lists it."""
    inbox_prefix: str = "_INBOX"
    """Prefix of the subjects for answers, where an account allows only some."""
    connect_timeout: Positive = 2.0
    """Seconds a connection may take to come about."""
    raw_limit: Count = 65_536
    """Bytes kept of a message that cannot be read."""
    data_limit: Count = 1_048_576
    """Bytes of a readable payload that are kept whole; of longer ones the beginning is."""
    apply: list[StreamDefinition] = []
    """Streams that `almenara streams apply` takes care of."""

    def __post_init__(self) -> None:
        if self.start not in ("all", "new"):
            try:
                parse_time(self.start)
            except ValueError:
                raise ValueError(
                    f"start must be all, new, or a time such as 2026-01-31T12:00:00Z;"
                    f" it is {self.start!r}"
                ) from None
        if not DURABLE.fullmatch(self.durable):
            raise ValueError(
                f"durable must be letters, digits, _ and - only; it is {self.durable!r}"
            )
