"""The kinds of resources that the plugin publishes, and the statuses that views depend on."""

from typing import Final

from nats.js.api import StreamInfo

from almenara.signals import UNKNOWN

SOURCE: Final = "nats"
STREAM: Final = "nats.stream"
CONSUMER: Final = "nats.consumer"
SERVER: Final = "nats.server"
OFFLINE: Final = "offline"
STALLED: Final = "stalled"
NO_CLIENT: Final = "no client"
BUS_METADATA: Final = {"almenara": "bus"}
"""Metadata of a stream that is the bus of an installation, and not a stream of events."""
BUS: Final = "bus"
INTERNAL_PREFIXES: Final = {"KV_": "key-value bucket", "OBJ_": "object store"}
"""What a stream with this prefix of its name stores, if not events: often secrets."""
STALE_STATUSES: Final = frozenset((UNKNOWN, OFFLINE))
"""Statuses whose figures are the last known ones; `stale_since` in the state holds the time."""


def is_leaderless(info: StreamInfo) -> bool:
    """Whether most of the servers that store a stream of a cluster cannot be reached."""
    return info.cluster is not None and bool(info.cluster.name) and not info.cluster.leader
