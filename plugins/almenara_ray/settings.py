"""The Ray plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from almenara.settings import Secret

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


class ClusterSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One Ray cluster, read through the dashboard of its head."""

    name: str
    """What people call it: letters, digits, `.`, `_` and `-`; no two clusters share one."""
    url: str
    """Address of the dashboard, such as `http://raycluster-head-svc:8265`."""
    token: Secret | None = None
    """Token for the header `Authorization: Bearer`, where Ray runs with `RAY_AUTH_MODE=token`."""
    headers: dict[str, Secret] = {}
    """Further headers, for a proxy in front of the dashboard; each value may be a secret."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    show_address: bool = False
    """Whether viewers are shown the dashboard's address. Who reaches a dashboard can run code."""
    kubernetes_namespace: str = ""
    """Namespace of its pods, where it runs on Kubernetes: the page of a job then leads to them."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name of a cluster must be letters, digits, '.', '_' and '-'; it is {self.name!r}"
            )
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"url of the cluster {self.name} must begin with http:// or https:// and name a"
                " host"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                f"url of the cluster {self.name} must not hold a user or a password; use token or"
                " headers"
            )
        if parts.query or parts.fragment:
            raise ValueError(f"url of the cluster {self.name} must not hold a ? or a #")


class RaySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Ray clusters to watch."""

    clusters: list[ClusterSettings] = []
    """The clusters; without any the plugin does nothing."""
    active: Positive = 1.0
    """Seconds between looks at the jobs of a cluster while any runs or waits."""
    idle: Positive = 3.0
    """Seconds between looks at the jobs of a cluster where none does."""
    shape_every: Positive = 5.0
    """Seconds between looks at nodes, use, demand, actors, tasks and Serve."""
    connect_timeout: Positive = 2.0
    """Seconds to connect to a dashboard."""
    timeout: Positive = 4.0
    """Seconds for the whole of an answer."""
    body_limit: Count = 8 * 1024**2
    """Bytes of an answer at most. Where the list of jobs is longer, unfinished ones alone are
    asked for."""
    pending_after: Positive = 60.0
    """Seconds after which a job that has not begun is told as stuck."""
    log_lines: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 200
    """Lines of the end of a failed job's log that are kept in history."""
    log_bytes: Count = 32 * 1024
    """Bytes of the end of a failed job's log that are kept in history."""
    finished: Annotated[int, msgspec.Meta(ge=0, le=2000)] = 100
    """Finished jobs of a cluster that stay among the current resources; history has all."""

    def __post_init__(self) -> None:
        names = [cluster.name for cluster in self.clusters]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"clusters holds two named {name!r}; each needs its own name")
