"""The NATS plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from almenara.config import Secret
from almenara.signals import parse_time

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
API_PREFIX: Final = "$JS.API"
SCHEMES: Final = ("nats", "tls", "ws", "wss")
DURABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """TLS to the servers."""

    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    certificate: Path | None = None
    """File with the client certificate."""
    key: Path | None = None
    """File with the private key of the client certificate."""
    hostname: str | None = None
    """Name that the servers' certificates must have, if it differs from the name in `servers`."""
    handshake_first: bool = False
    """Start TLS before the server's greeting, for servers with `handshake_first`."""


class StreamDefinition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A stream that `almenara streams apply` creates or updates."""

    name: str
    """Name of the stream."""
    subjects: list[str]
    """Subjects that it stores; wildcards are allowed."""
    storage: Literal["file", "memory"] = "file"
    """Where the server stores its messages."""
    replicas: Count = 1
    """Number of servers that store a copy."""
    max_age: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds after which messages are deleted; 0 for no limit."""
    max_bytes: int = -1
    """Maximum size in bytes; -1 for no limit."""
    duplicate_window: Positive = 120.0
    """Seconds within which the server drops a repeated `Nats-Msg-Id`."""


class ProtobufSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The schema of Protobuf messages, which do not describe themselves."""

    subjects: list[str]
    """Subjects of the messages; wildcards are allowed. The first entry that matches is used."""
    message: str
    """Full name of the message, such as `fleet.v1.Event`."""
    descriptor_set: Path
    """File written by `protoc --include_imports --descriptor_set_out`."""


class NatsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The NATS servers of one account, and what to read from them."""

    servers: list[str] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    """Addresses of the servers of one account. With `tls://`, or with the section `tls`, nothing is
    sent to a server that does not offer TLS."""
    credentials: Path | None = None
    """Credentials file of a user (`.creds`)."""
    nkey: Path | None = None
    """File with the nkey seed of a user."""
    user: str | None = None
    """User name."""
    password: Secret | None = None
    """Password of the user."""
    token: Secret | None = None
    """Token, instead of a user."""
    tls: TlsSettings | None = None
    """TLS with a private authority or a client certificate."""
    streams: list[str] = []
    """Streams to read. Empty reads all streams except work queues, key-value buckets, object
    stores, the bus of Almenara, and mirrors of streams that are read. What a stream copies
    (`sources`) from a stream that is read is an event of that stream alone."""
    subjects: list[str] = []
    """Core NATS subjects to read in addition. Delivery is at most once."""
    start: str = "all"
    """Where to start in a stream that was never read: `all`, `new` or an RFC 3339 time."""
    deduplicate_by: Literal["message", "id"] = "message"
    """What makes two stored messages the same event. `message`: nothing; each message of a stream
    is one event, and a repeated id is marked with `repeat_of`. `id`: the id that the publisher set
    (CloudEvents `source` and `id`, `idempotency_key` or `Nats-Msg-Id`); later messages with the
    same id are dropped, within `bus.deduplication_window`."""
    domain: str = ""
    """JetStream domain to read from, such as that of the hub behind a leaf node. Empty for the
    servers' own."""
    api_prefix: str = ""
    """Prefix of the JetStream API, where the account imports it as other subjects than `$JS.API`;
    instead of `domain`."""
    durable: str = "almenara"
    """Name of the durable consumer in each stream. Two installations on one account need two
    names."""
    inactive_threshold: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds after which the server deletes the consumers of an installation that no longer runs;
    0 keeps them. Reading continues at the stored position either way, but a stream with the
    retention `interest` stores nothing for a consumer that was deleted."""
    batch: Count = 500
    """Maximum number of messages that are published to the bus at once."""
    batch_bytes: Count = 16 * 1024**2
    """Bytes of messages that are requested at once, over all streams. The server closes connections
    on which more than its `max_pending` (64 MiB) is waiting."""
    ack_wait: Positive = 30.0
    """Seconds after which the server delivers unacknowledged messages again."""
    heartbeat: Annotated[float, msgspec.Meta(gt=0, le=15)] = 1.5
    """Seconds between heartbeats of an idle stream; reading restarts when two are missing."""
    rescan: Positive = 2.0
    """Seconds between two lists of the streams."""
    observe: Positive = 5.0
    """Seconds between two samples of streams and consumers."""
    stalled_after: Positive = 60.0
    """Seconds after which a consumer with pending messages that neither receives nor acknowledges
    any is reported as stalled."""
    ping_interval: Count = 1
    """Seconds between pings."""
    max_outstanding_pings: Count = 3
    """Number of unanswered pings after which a connection is closed."""
    name: str = "almenara"
    """Name of the connection in the server's list of connections."""
    inbox_prefix: str = "_INBOX"
    """Prefix of the subjects for responses, if the account allows only some."""
    connect_timeout: Positive = 2.0
    """Seconds until a connection attempt is given up."""
    raw_limit: Count = 65_536
    """Maximum number of bytes stored of a message that cannot be parsed."""
    data_limit: Count = 1_048_576
    """Maximum size in bytes of a payload that is stored as data. Of larger ones the first
    `raw_limit` bytes are stored."""
    protobuf: list[ProtobufSchema] = []
    """Schemas by which Protobuf messages are stored as JSON."""
    apply: list[StreamDefinition] = []
    """Streams that `almenara streams apply` creates or updates."""

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError(
                "servers is empty; name one, such as nats://nats:4222, or add nats to"
                " plugins.disabled"
            )
        for server in self.servers:
            scheme, has_scheme, _ = server.partition("://")
            if has_scheme and scheme not in SCHEMES:
                raise ValueError(
                    f"{scheme}:// is not a scheme of NATS servers; use one of {', '.join(SCHEMES)},"
                    " such as nats://nats:4222"
                )
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
                f"durable must consist of letters, digits, _ and -; it is {self.durable!r}"
            )
        if self.domain and self.api_prefix:
            raise ValueError("set domain or api_prefix, not both")
        if "." in self.domain or not is_subject(self.jetstream_prefix):
            name = "domain" if self.domain else "api_prefix"
            raise ValueError(f"{name} must be words of a subject, without wildcards and spaces")

    @property
    def jetstream_prefix(self) -> str:
        """The first words of every subject of the JetStream API."""
        if self.domain:
            return f"$JS.{self.domain}.API"
        return self.api_prefix.rstrip(".") or API_PREFIX

    @property
    def requires_tls(self) -> bool:
        """Whether no server may be used without TLS."""
        return self.tls is not None


def is_subject(text: str) -> bool:
    """Whether a text is a subject without wildcards, to which a message can be published."""
    return all(word and not set(word) & set("*> \t\r\n") for word in text.split("."))
