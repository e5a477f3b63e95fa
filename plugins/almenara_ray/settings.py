"""The Ray plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from almenara.config import Secret, parse_http_url

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
    simulated: bool = False
    """Whether it is made up, as in a demonstration: its pages then say that nothing is real."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"name of a cluster must be letters, digits, '.', '_' and '-'; it is {self.name!r}"
            )
        parts = parse_http_url(self.url, f"the cluster {self.name}", "use token or headers")
        if parts.query or parts.fragment:
            raise ValueError(f"url of the cluster {self.name} must not hold a ? or a #")


class KubeRaySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A Kubernetes cluster whose RayClusters, RayJobs and RayServices are watched.

    It needs the Kubernetes plugin's libraries, and `list` and `watch` of `rayclusters`, `rayjobs`
    and `rayservices` of `ray.io`.
    """

    name: str = ""
    """How it is called here; needed where there are several."""
    kubeconfig: Path | None = None
    """File to connect by; without one the ServiceAccount of the pod that Almenara runs in, and
    outside of a cluster what KUBECONFIG names or ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty for its current one."""
    namespaces: list[str] = []
    """Namespaces to watch; empty for all."""
    dashboard: str = "http://{service}.{namespace}.svc:8265"
    """Address of the dashboard of a RayCluster, of the service of its head and its namespace. The
    one in the status of a RayJob is not used: who can write it could send us, and the token,
    elsewhere."""
    token: Secret | None = None
    """Token for the header `Authorization: Bearer` of every dashboard."""
    headers: dict[str, Secret] = {}
    """Further headers; each value may be a secret."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""

    def __post_init__(self) -> None:
        try:
            written = self.dashboard.format(service="a", namespace="b")
        except (KeyError, IndexError, ValueError):
            written = ""
        if not urlsplit(written).hostname:
            raise ValueError(
                "dashboard of kuberay must be an address in which {service} and {namespace} stand"
                f" for those of a RayCluster; it is {self.dashboard!r}"
            )

    @property
    def source(self) -> str:
        """The name of its source, under which what is remembered of its clusters is kept."""
        return f"ray/kuberay-{self.name}" if self.name else "ray/kuberay"

    def place(self, name: str, url: str) -> ClusterSettings:
        """The settings of a cluster that was found."""
        return ClusterSettings(
            name=name, url=url, token=self.token, headers=self.headers, ca=self.ca
        )


class RaySettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The Ray clusters to watch."""

    clusters: list[ClusterSettings] = []
    """The clusters to read; those of KubeRay are found by themselves."""
    kuberay: list[KubeRaySettings] = []
    """Kubernetes clusters whose RayClusters are found and followed."""
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
        places = [it.name for it in self.kuberay]
        for name in places:
            if places.count(name) > 1:
                raise ValueError(f"kuberay holds two named {name!r}; each needs its own name")

    @property
    def any(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self.clusters or self.kuberay)
