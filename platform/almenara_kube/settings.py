"""Which API server to connect to, and how a client behaves towards it."""

import os
from pathlib import Path
from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class KubeContext(msgspec.Struct, frozen=True):
    """Where the credentials of a cluster come from; equal for everything that reaches one alike."""

    kubeconfig: Path | None = None
    """A kubeconfig file; without one the ServiceAccount of the pod that Almenara runs in, and
    outside of a cluster the files of KUBECONFIG or ~/.kube/config."""
    context: str = ""
    """A context of the kubeconfig; empty for its current one."""

    @property
    def is_in_cluster(self) -> bool:
        """Whether the client authenticates as the pod that Almenara runs in."""
        return (
            self.kubeconfig is None
            and not self.context
            and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
        )


class ClientSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Bounds and intervals of the requests to one API server."""

    page: Count = 500
    """Objects in one page of a list."""
    connect_timeout: Positive = 5.0
    """Seconds within which a connection must be established."""
    answer_timeout: Positive = 30.0
    """Seconds within which an answer must be complete, each page of a list."""
    watch_seconds: Count = 270
    """Seconds after which the API server ends a watch, and a new one continues from there; it
    varies by up to a tenth."""
    silence: Positive = 75.0
    """Seconds without any data after which a watch counts as dead; the API server sends a bookmark
    about once a minute."""
    probe_every: Positive = 3.0
    """Seconds between checks that the API server still answers."""
    probe_timeout: Positive = 4.0
    """Seconds within which it must answer them, before the cluster is shown as stale."""
    backoff_first: Positive = 0.8
    """Seconds until the first retry of a failed request; each further retry waits twice as long."""
    backoff_limit: Positive = 30.0
    """Seconds between two retries at most."""
    refused_every: Positive = 60.0
    """Seconds between retries of requests that RBAC forbids or that the cluster does not serve."""
