"""The settings of the Valkey plugin."""

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from almenara.config import Secret

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
TLS_SCHEMES: Final = frozenset(("rediss", "valkeys"))
SCHEMES: Final = frozenset(("redis", "valkey")) | TLS_SCHEMES
DEFAULT_PORT: Final = 6379


class Address(msgspec.Struct, frozen=True, order=True):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How connections are secured."""

    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    certificate: Path | None = None
    """File with the client certificate."""
    key: Path | None = None
    """File with the key of the client certificate."""
    verify: bool = True
    """Whether the certificate of a server must be valid. Without that, any server can respond in
    its place."""
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
    tls: TlsSettings | None = None
    """Files and checks of TLS, for `rediss://` and `valkeys://`."""
    discover: bool = True
    """Whether replicas, primaries and nodes that servers name are observed as well."""
    every: Positive = 5.0
    """Seconds between observations."""
    timeout: Positive = 2.0
    """Seconds for connecting, and for each response."""
    slow_log: bool = True
    """Whether entries of the slow log, a ring in the memory of each server, become events."""
    show_keys: bool = False
    """Whether slow commands show their first argument, which is a key mostly. Other arguments are
    never shown."""
    streams: list[str] = []
    """Streams whose consumer groups are observed; without any, those that are discovered."""
    discover_streams: bool = True
    """Whether streams are searched for, with a bounded `SCAN` at each observation."""
    stalled_after: Positive = 60.0
    """Seconds without progress after which a consumer group with pending entries is stalled."""
    key_samples: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """Random keys whose size is read each minute from each primary; the largest are shown."""
    forget_after: Positive = 600.0
    """Seconds after which a replica that its primary no longer names is no longer observed."""

    def __post_init__(self) -> None:
        for url in self.urls:
            parse_url(url)
        if len({urlsplit(url).scheme in TLS_SCHEMES for url in self.urls}) > 1:
            raise ValueError(f"urls of deployment {self.name}: use TLS for all of them or for none")
        if self.tls is not None and not self.uses_tls:
            raise ValueError(f"deployment {self.name} has the section tls; use rediss:// in urls")

    @property
    def uses_tls(self) -> bool:
        """Whether connections are secured."""
        return urlsplit(self.urls[0]).scheme in TLS_SCHEMES

    @property
    def addresses(self) -> list[Address]:
        """The addresses to start from."""
        return [parse_url(url) for url in self.urls]


def parse_url(url: str) -> Address:
    """The address of a URL. Raises `ValueError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # What is wrong with it may be a password in place of the port.
        raise ValueError("a URL must be like redis://host:6379; the one given is no URL") from None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(
            f"a URL must be like redis://host:6379 or rediss://host:6379; the one given"
            f" {'has no host' if parts.scheme in SCHEMES else 'has another scheme'}"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must not have a user or password; use user and password")
    if parts.path.strip("/") or parts.query:
        raise ValueError("a URL must not have a database or options; servers are observed whole")
    return Address(parts.hostname, DEFAULT_PORT if port is None else port)


class ValkeySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Valkey and Redis servers to observe."""

    deployments: list[DeploymentSettings] = []
    """The deployments; without any, the plugin does nothing."""

    def __post_init__(self) -> None:
        names = [deployment.name for deployment in self.deployments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two deployments are named {name!r}; names must be unique")
