"""The settings of the Valkey plugin."""

from typing import Annotated, Final

import msgspec

from almenara.config import Secret
from almenara.sdk.servers import Address, TlsSettings, UrlForm, check_unique

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
URLS: Final = UrlForm(
    plain=("redis", "valkey"), secured=("rediss", "valkeys"), port=6379, host="cache"
)


class ValkeyTlsSettings(TlsSettings, kw_only=True, forbid_unknown_fields=True):
    """How connections are secured."""

    verify_hostname: bool = True
    """Whether the certificate must be for the host of the address. Sentinels and cluster nodes
    often announce IP addresses that their certificates do not have."""


class DeploymentSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One server, with its replicas, or one set of sentinels, or one cluster."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^/\s]+$")]
    """Name of the deployment; names are unique."""
    urls: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Addresses to start from, such as `redis://cache:6379`, or `rediss://` for TLS: of servers, of
    sentinels or of cluster nodes. Which of these they are is read from them."""
    user: str | None = None
    """User of the access control list."""
    password: Secret | None = None
    """Password of the servers."""
    sentinel_user: str | None = None
    """User of the sentinels."""
    sentinel_password: Secret | None = None
    """Password of the sentinels."""
    primary_name: str | None = None
    """The primary to observe where sentinels watch several; all of them by default."""
    tls: ValkeyTlsSettings | None = None
    """Files and checks of TLS, for `rediss://` and `valkeys://`."""
    discover: bool = True
    """Whether replicas, primaries and nodes that servers name are observed as well."""
    every: Positive = 5.0
    """Seconds between observations."""
    timeout: Positive = 2.0
    """Seconds for connecting, and for each response."""
    slow_log: bool = True
    """Whether entries of the log of slow commands, a ring in the memory of each server, become
    events; of Valkey 8.1 and later, also those of large requests and replies (`COMMANDLOG`)."""
    show_keys: bool = False
    """Whether slow commands show their first argument, which is a key mostly. Other arguments are
    never shown."""
    channels: bool = True
    """Whether channels of publish and subscribe are shown with their subscribers, of servers that
    have at most 1,000."""
    streams: list[str] = []
    """Streams whose consumer groups are observed; without any, those that are discovered."""
    discover_streams: bool = True
    """Whether streams are searched for, with a bounded `SCAN` at each observation."""
    stalled_after: Positive = 60.0
    """Seconds without progress after which a consumer group with pending entries is stalled."""
    key_samples: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """Random keys whose size is read each minute from each primary; the largest are shown."""
    fragmentation_limit: Annotated[float, msgspec.Meta(ge=1)] = 1.5
    """Ratio of the memory of a process to that of its data from which on it is fragmented."""
    fragmentation_bytes: Count = 128 * 1024**2
    """Bytes that the process must use beyond its data for that: small servers always have a high
    ratio."""
    blocked_clients_limit: Count = 100
    """Clients that wait in commands such as `BLPOP` from which on that is a problem."""
    forget_after: Positive = 600.0
    """Seconds after which a replica that its primary no longer names is no longer observed."""
    simulated: bool = False
    """Whether the servers are simulated, as in the demo: they are then marked as such."""

    def __post_init__(self) -> None:
        URLS.check(self.name, self.urls, self.tls)

    @property
    def uses_tls(self) -> bool:
        """Whether connections are secured."""
        return URLS.is_secured(self.urls[0])

    @property
    def addresses(self) -> list[Address]:
        """The addresses to start from."""
        return [URLS.parse(url) for url in self.urls]


class ValkeySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Valkey and Redis servers to observe."""

    deployments: list[DeploymentSettings] = []
    """The deployments; without any, the plugin does nothing."""

    def __post_init__(self) -> None:
        check_unique("deployment", [deployment.name for deployment in self.deployments])
