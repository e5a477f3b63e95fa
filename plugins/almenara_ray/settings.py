"""The Ray plugin's part of the configuration."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from almenara.config import Secret, parse_http_url
from almenara_kube.settings import KubeContext

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


class ClusterSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One Ray cluster, read through the dashboard of its head."""

    name: str
    """Name of the cluster in Almenara: letters, digits, `.`, `_` and `-`; unique."""
    url: str
    """Address of the dashboard, such as `http://raycluster-head-svc:8265`."""
    token: Secret | None = None
    """Token for the header `Authorization: Bearer`, where Ray runs with `RAY_AUTH_MODE=token`."""
    headers: dict[str, Secret] = {}
    """Further headers, for a proxy in front of the dashboard; each value may be a secret."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    show_address: bool = False
    """Whether viewers see the dashboard's address. Anyone who can reach a dashboard can run code
    on its cluster."""
    kubernetes_namespace: str = ""
    """Namespace of its pods, where it runs on Kubernetes: the page of a job then links to them."""
    simulated: bool = False
    """Whether the cluster is simulated, as in the demo: its pages then say so."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name of a cluster must be letters, digits, '.', '_' and '-'; it is {self.name!r}"
            )
        parts = parse_http_url(self.url, f"the cluster {self.name}", "use token or headers")
        if parts.query or parts.fragment:
            raise ValueError(f"url of the cluster {self.name} must not contain a ? or a #")


class KubeRaySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A Kubernetes cluster whose RayClusters, RayJobs, RayServices and RayCronJobs are
    watched.

    It needs `list` and `watch` of `rayclusters`, `raycronjobs`, `rayjobs` and `rayservices` of
    `ray.io`.
    """

    name: str = ""
    """Name of the Kubernetes cluster in Almenara; required where there are several."""
    kubeconfig: Path | None = None
    """Kubeconfig to connect with; without one the ServiceAccount of the pod that Almenara runs in,
    and outside of a cluster the file that KUBECONFIG names, or ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty for its current one."""
    namespaces: list[str] = []
    """Namespaces to watch; empty for all."""
    dashboard: str = "http://{service}.{namespace}.svc:8265"
    """Address of the dashboard of a RayCluster, by the service of its head and its namespace. The
    address in the status of a RayJob is not used: whoever can write it could redirect requests,
    and the token, elsewhere."""
    token: Secret | None = None
    """Token for the header `Authorization: Bearer` of every dashboard."""
    cluster_tokens: bool = False
    """Whether to read the token of each RayCluster with `authOptions.mode: token` from its Secret.
    It is sent to the head of that cluster alone, in place of `token`. Needs `get` of `secrets` in
    the watched namespaces."""
    headers: dict[str, Secret] = {}
    """Further headers; each value may be a secret."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""

    def __post_init__(self) -> None:
        try:
            example = self.dashboard.format(service="a", namespace="b")
        except (KeyError, IndexError, ValueError):
            example = ""
        if not urlsplit(example).hostname:
            raise ValueError(
                "dashboard of kuberay must be an address with {service} and {namespace}, which are"
                f" replaced by those of a RayCluster; it is {self.dashboard!r}"
            )

    @property
    def kube_context(self) -> KubeContext:
        """The source of the credentials for the API server."""
        return KubeContext(self.kubeconfig, self.context)

    @property
    def source(self) -> str:
        """The name of its source, under which the state of its clusters is stored."""
        return f"ray/kuberay-{self.name}" if self.name else "ray/kuberay"

    def cluster_settings(self, name: str, url: str) -> ClusterSettings:
        """Return the settings of a discovered cluster."""
        return ClusterSettings(
            name=name, url=url, token=self.token, headers=self.headers, ca=self.ca
        )


class RaySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Ray clusters to watch."""

    RENAMED: ClassVar[dict[str, str]] = {
        "active": "active_interval",
        "idle": "idle_interval",
        "finished": "finished_limit",
        "shape_every": "cluster_interval",
    }

    clusters: list[ClusterSettings] = []
    """Clusters by the address of their dashboards; those of KubeRay are discovered."""
    kuberay: list[KubeRaySettings] = []
    """Kubernetes clusters whose RayClusters are discovered and followed."""
    active_interval: Positive = 1.0
    """Seconds between requests for the job list of a cluster with running or pending jobs."""
    idle_interval: Positive = 3.0
    """Seconds between requests for the job list of a cluster without any."""
    cluster_interval: Positive = 5.0
    """Seconds between requests for nodes, usage, demand, actors, tasks and Serve."""
    connect_timeout: Positive = 2.0
    """Seconds to connect to a dashboard."""
    timeout: Positive = 4.0
    """Seconds for a complete answer."""
    body_limit: Count = 8 * 1024**2
    """Largest answer, in bytes. Of a cluster whose job list is larger, only the unfinished jobs are
    requested."""
    pending_after: Positive = 60.0
    """Seconds after which a job that has not started is reported as stuck."""
    log_lines: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 200
    """Last lines of a failed job's log that are stored in history."""
    log_bytes: Count = 32 * 1024
    """Last bytes of a failed job's log that are stored in history."""
    finished_limit: Annotated[int, msgspec.Meta(ge=0, le=2000)] = 100
    """Finished jobs of a cluster that stay among the current resources; history has all."""

    def __post_init__(self) -> None:
        _check_unique("clusters", [cluster.name for cluster in self.clusters])
        _check_unique("kuberay", [kuberay.name for kuberay in self.kuberay])

    @property
    def is_enabled(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self.clusters or self.kuberay)


def _check_unique(setting: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{setting} has two entries named {name!r}; names must be unique")
