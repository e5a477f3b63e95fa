"""The settings of the vLLM plugin."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from almenara.config import Secret, parse_http_url
from almenara.sdk.servers import check_unique
from almenara_kube.settings import KubeContext

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Namespace = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class TargetSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How servers are read, wherever they are."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """Name; names are unique. Servers that are discovered have it in front of their own."""
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
    simulated: bool = False
    """Whether the servers are simulated, as in the demo: their page then says so."""


class VllmServerSettings(TargetSettings, kw_only=True, forbid_unknown_fields=True):
    """One vLLM server, or each server behind one name."""

    url: str
    """Address of the server, such as `http://vllm:8000`; for Ray Serve that of a page of metrics,
    such as `http://ray-worker:8080/metrics`."""
    metrics_only: bool = False
    """Whether only the page of metrics at `url` is read, as for Ray Serve, where models, version
    and health are not at that address."""
    resolve: bool = False
    """Whether each address that the host has is a server of its own, as with a headless Service of
    Kubernetes. Its name is that of the server followed by the address."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"the server {self.name}", "use api_key or headers")
        if not self.metrics_only and urlsplit(self.url).path.strip("/"):
            raise ValueError(
                f"the URL of the server {self.name} has a path; leave it out, or set metrics_only"
                " for the address of a page of metrics"
            )


class DiscoverySettings(TargetSettings, kw_only=True, forbid_unknown_fields=True):
    """How servers are discovered."""

    discover_every: Positive = 15.0
    """Seconds between two times that servers are searched for."""


class RaySettings(DiscoverySettings, kw_only=True, forbid_unknown_fields=True):
    """A Ray cluster whose nodes have the metrics of vLLM in Ray Serve. Its dashboard lists them
    since Ray 2.60; of older ones, set the pages of metrics in `servers`."""

    url: str
    """Address of the dashboard, such as `http://raycluster-head-svc:8265`. `headers` are sent to it
    alone."""
    metrics_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"the Ray cluster {self.name}", "use headers")


class KubernetesSettings(DiscoverySettings, kw_only=True, forbid_unknown_fields=True):
    """The servers in the pods of a Kubernetes cluster, found by labels. It needs `list` of `pods`
    or, for `services`, of `endpointslices` of `discovery.k8s.io`.

    Whoever can create such a pod receives `api_key` and `headers`.
    """

    pods: str = "app.kubernetes.io/name=vllm"
    """Label selector of the pods; for Ray Serve on KubeRay `ray.io/is-ray-node=yes` with
    `metrics_only` and port 8080."""
    services: str = ""
    """Label selector of Services whose pods are observed, in place of `pods`."""
    namespaces: list[Namespace] = []
    """Namespaces; empty for all."""
    kubeconfig: Path | None = None
    """Kubeconfig to connect with; without one the ServiceAccount of the pod that Almenara runs in,
    and outside of a cluster the file that KUBECONFIG names, or ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty for its current one."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8000
    """Port of the servers in their pods."""
    scheme: Literal["http", "https"] = "http"
    """Scheme of the servers."""
    metrics_only: bool = False
    """Whether only `/metrics` is read. Pods whose page has no metric of vLLM are then left out."""

    @property
    def kube_context(self) -> KubeContext:
        """The source of the credentials for the API server."""
        return KubeContext(self.kubeconfig, self.context)


Entry = VllmServerSettings | KubernetesSettings | RaySettings
"""What servers are configured by."""


class VllmSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The vLLM servers to observe."""

    servers: list[VllmServerSettings] = []
    """The servers at known addresses."""
    kubernetes: list[KubernetesSettings] = []
    """Servers that are found by the labels of their pods or Services."""
    ray: list[RaySettings] = []
    """Ray clusters that serve models with vLLM."""
    window: Positive = 60.0
    """Seconds over which rates, shares and quantiles are computed."""
    saturated_after: Positive = 10.0
    """Seconds for which requests must wait until a server is saturated."""
    failing_share: Share = 0.05
    """Share of requests finished with an error from which on a server is failing."""
    body_limit: Count = 16 * 1024**2
    """Maximum size of a page of metrics in bytes."""

    def __post_init__(self) -> None:
        check_unique("server", [entry.name for entry in self.entries])

    @property
    def entries(self) -> list[Entry]:
        """All servers, Kubernetes and Ray clusters; without any, the plugin does nothing."""
        return [*self.servers, *self.kubernetes, *self.ray]
