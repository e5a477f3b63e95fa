"""The settings of the vLLM plugin."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from almenara.config import Secret, parse_http_url

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class VllmServerSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One vLLM server, or each server behind one name."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """Name of the server; names are unique."""
    url: str
    """Address of the server, such as `http://vllm:8000`; for Ray Serve that of a page of metrics,
    such as `http://ray-worker:8080/metrics`."""
    metrics_only: bool = False
    """Whether only the page of metrics at `url` is read, as for Ray Serve, where models, version
    and health are not at that address."""
    resolve: bool = False
    """Whether each address that the host has is a server of its own, as with a headless Service of
    Kubernetes. Its name is that of the server followed by the address."""
    api_key: Secret | None = None
    """Key for `/v1/models`, as in `--api-key` of the server."""
    headers: dict[str, Secret] = {}
    """Headers to send, as a gateway in front of the server expects; each value may be a secret."""
    every: Positive = 5.0
    """Seconds between observations."""
    timeout: Positive = 3.0
    """Seconds for each response."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"the server {self.name}", "use api_key or headers")
        if not self.metrics_only and urlsplit(self.url).path.strip("/"):
            raise ValueError(
                f"the URL of the server {self.name} has a path; leave it out, or set metrics_only"
                " for the address of a page of metrics"
            )


class VllmSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The vLLM servers to observe."""

    servers: list[VllmServerSettings] = []
    """The servers; without any, the plugin does nothing."""
    window: Positive = 60.0
    """Seconds over which rates, shares and quantiles are computed."""
    saturated_after: Positive = 10.0
    """Seconds for which requests must wait until a server is saturated."""
    failing_share: Share = 0.05
    """Share of requests finished with an error from which on a server is failing."""
    body_limit: Count = 16 * 1024**2
    """Maximum size of a page of metrics in bytes."""

    def __post_init__(self) -> None:
        names = [server.name for server in self.servers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two servers are named {name!r}; names must be unique")
