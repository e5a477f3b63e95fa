"""The settings of the bus."""

from typing import Annotated, Any, Final

import msgspec

from almenara.config.secrets import Secret

EMBEDDED: Final = "embedded"


class BusSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the log of all signals is: in the database of this process, or shared by replicas."""

    kind: str = EMBEDDED
    """Kind of the bus. `embedded`: the log is the database in `storage.dir`, of one process.
    `jetstream` (experimental): the log is a stream of NATS, which `almenara streams apply` creates;
    each replica builds its history from it, in a `storage.dir` of its own. Its servers are those of
    `plugins.nats`."""
    replica: str = ""
    """Name of this replica, which no other has. The default is the name of the host."""
    secret: Secret | None = None
    """Secret that all replicas of a shared bus have, of at least 32 characters. With it, they share
    API tokens, the access token, the sessions that these start, and what users save in the browser;
    what they share is signed, so that no other client of the servers can create a token."""
    snapshot_interval: Annotated[float, msgspec.Meta(ge=1)] = 3600.0
    """Seconds between two snapshots of the history beside a shared bus. A replica with an empty
    `storage.dir` starts from the newest one, and reads what is newer from the bus."""
    snapshot_count: Annotated[int, msgspec.Meta(ge=1, le=48)] = 2
    """Number of snapshots that are stored. Two of them share what has not changed."""
    settings: dict[str, Any] = {}
    """Settings of that kind."""

    def __post_init__(self) -> None:
        if self.kind == EMBEDDED and self.settings:
            raise ValueError("settings: the kind `embedded` has none; set kind to `jetstream`")
