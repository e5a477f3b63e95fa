"""The settings of the bus on JetStream: `bus.settings` of the kind `jetstream`."""

import re
from typing import Annotated, Final, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class JetStreamBusSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The stream that is the shared log of all replicas. All replicas need the same settings."""

    stream: str = "ALMENARA_BUS"
    """Name of the stream. Two installations on one account need two names."""
    subject: str = "almenara.bus"
    """Subject that the stream stores; nothing else may publish to it."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    """Number of servers that store a copy. With 1, the bus is lost with its server."""
    storage: Literal["file", "memory"] = "file"
    """Where the servers store it."""
    max_age: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds after which messages are deleted; 0 for no limit. A new replica builds its history
    from the stream, and needs all of it, or a copy of the folder of another replica."""
    max_bytes: int = -1
    """Maximum size in bytes, beyond which the oldest messages are deleted; -1 for no limit."""
    lease_ttl: Annotated[float, msgspec.Meta(ge=2, le=60)] = 6.0
    """Seconds after which another replica runs the sources of one that does not respond."""
    publish_timeout: Positive = 5.0
    """Seconds until a message that is not acknowledged is sent again."""

    @property
    def state_bucket(self) -> str:
        """Name of the key-value bucket with sessions and tokens."""
        return f"{self.stream}_STATE"

    @property
    def lease_bucket(self) -> str:
        """Name of the key-value bucket with the leases."""
        return f"{self.stream}_LEASES"

    @property
    def snapshot_bucket(self) -> str:
        """Name of the object store with the snapshots of the history."""
        return f"{self.stream}_SNAPSHOTS"

    @property
    def bucket_streams(self) -> tuple[str, ...]:
        """Names of the streams that store the buckets."""
        buckets = (self.lease_bucket, self.state_bucket)
        return (*(f"KV_{name}" for name in buckets), f"OBJ_{self.snapshot_bucket}")

    def __post_init__(self) -> None:
        if not STREAM_NAME.fullmatch(self.stream):
            raise ValueError(
                f"stream must consist of letters, digits, _ and -; it is {self.stream!r}"
            )
        words = self.subject.split(".")
        if not all(words) or any(set(word) & set("*> \t\r\n$") for word in words):
            raise ValueError(
                "subject must be words with dots between them, without wildcards and spaces; it is"
                f" {self.subject!r}"
            )
