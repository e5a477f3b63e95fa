"""What `almenara doctor` says about Kubernetes, besides what we may do there."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara.sdk import monotonic
from almenara_kube.client import connect
from almenara_kube.credentials import describe_source
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.rbac import measured_kinds
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings, watched_kinds

SLOW = 1.0
AT_ONCE = 4


async def diagnose(settings: KubernetesSettings) -> Sequence[Finding]:
    """Findings on each cluster: whether it answers, and serves what is watched."""
    found: list[Finding] = []
    for cluster in settings.clusters:
        found += await _cluster(settings, cluster)
    return found


async def _cluster(settings: KubernetesSettings, cluster: ClusterSettings) -> Sequence[Finding]:
    what = f"Kubernetes {cluster.name}".strip()
    how = describe_source(cluster.kube_context)
    async with connect(cluster.kube_context, settings) as connection:
        began = monotonic()
        try:
            await connection.get("/version")
        except (UnreachableError, ApiError) as error:
            return [
                Finding(
                    check=what,
                    verdict="failed",
                    message=f"{error} (by {how})",
                    remedy="Check kubeconfig, context and that the API server runs.",
                )
            ]
        took = monotonic() - began
        answers = Finding(
            check=what,
            verdict="warning" if took > SLOW else "ok",
            message=f"{connection.server} answers in {took * 1000:.0f} ms, by {how}",
            remedy="Look at its load and at the network." if took > SLOW else "",
        )
        kinds = [*watched_kinds(settings, cluster), *measured_kinds(settings, cluster)]
        room = asyncio.Semaphore(AT_ONCE)

        async def look(watched: WatchedKind, namespace: str) -> tuple[WatchedKind, str, str]:
            async with room:
                try:
                    await connection.get(watched.path_in(namespace), {"limit": "1"})
                except ApiError as error:
                    return watched, namespace, "" if _fine(watched, error) else str(error)
                except UnreachableError as error:
                    return watched, namespace, str(error)
                return watched, namespace, ""

        places = [
            (it, namespace)
            for it in kinds
            for namespace in ((cluster.namespaces or [""]) if it.namespaced else [""])
        ]
        looked = await asyncio.gather(*(look(*place) for place in places))
    wrong = dict.fromkeys(reason for _, _, reason in looked if reason)
    return [
        answers,
        *(
            Finding(
                check=f"{what} kinds", verdict="warning", message=reason,
                remedy="Look at the API server, and at what serves this API.",
            )
            for reason in wrong
        ),
    ]  # fmt: skip


def _fine(watched: WatchedKind, error: ApiError) -> bool:
    """Whether a cluster may answer so: what is optional may be absent, or not serve just now, and
    what is forbidden is told by the review of our rights."""
    return error.status == 403 or (watched.optional and error.status in (404, 503))
