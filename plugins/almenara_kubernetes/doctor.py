"""The checks of `almenara doctor` on Kubernetes, except those of permissions."""

import asyncio
from collections.abc import Sequence
from typing import Final

from almenara.hookspecs import Finding
from almenara_kube.client import ApiClient, connect
from almenara_kube.credentials import describe_source
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.rbac import metrics_kinds
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings, watched_kinds

SLOW: Final = 1.0
"""Seconds from which an answer counts as slow."""
CONCURRENT: Final = 4


async def diagnose(settings: KubernetesSettings) -> Sequence[Finding]:
    """Findings on each cluster: whether it answers, and serves the watched kinds."""
    findings: list[Finding] = []
    for cluster in settings.clusters:
        findings += await _diagnose_cluster(settings, cluster)
    return findings


async def _diagnose_cluster(
    settings: KubernetesSettings, cluster: ClusterSettings
) -> Sequence[Finding]:
    check = f"Kubernetes {cluster.name}".strip()
    source = describe_source(cluster.kube_context)
    async with connect(cluster.kube_context, settings) as client:
        try:
            seconds = await client.measure_answer()
        except UnreachableError as error:
            return [
                Finding(
                    check=check,
                    verdict="failed",
                    message=f"{error} (by {source})",
                    remedy="Check kubeconfig, context and that the API server runs.",
                )
            ]
        is_slow = seconds > SLOW
        answer = Finding(
            check=check,
            verdict="warning" if is_slow else "ok",
            message=f"{client.server} answers in {seconds * 1000:.0f} ms, by {source}",
            remedy="Check the load of the API server and the network." if is_slow else "",
        )
        problems = await _check_kinds(settings, cluster, client)
    return [
        answer,
        *(
            Finding(
                check=f"{check} kinds", verdict="warning", message=problem,
                remedy="Check the API server, and what serves this API.",
            )
            for problem in dict.fromkeys(problems)
        ),
    ]  # fmt: skip


async def _check_kinds(
    settings: KubernetesSettings, cluster: ClusterSettings, client: ApiClient
) -> list[str]:
    """List one object of each kind in each namespace; return what went wrong."""
    turns = asyncio.Semaphore(CONCURRENT)

    async def check(kind: WatchedKind, namespace: str) -> str:
        async with turns:
            try:
                await client.get(kind.path_in(namespace), {"limit": "1"})
            except ApiError as error:
                return "" if _is_expected(kind, error) else str(error)
            except UnreachableError as error:
                return str(error)
            return ""

    kinds = [*watched_kinds(settings, cluster), *metrics_kinds(settings, cluster)]
    problems = await asyncio.gather(
        *(
            check(kind, namespace)
            for kind in kinds
            for namespace in ((cluster.namespaces or [""]) if kind.namespaced else [""])
        )
    )
    return [problem for problem in problems if problem]


def _is_expected(kind: WatchedKind, error: ApiError) -> bool:
    """Whether a cluster may answer so: optional kinds may be absent or unavailable, and what is
    forbidden is reported by the review of permissions."""
    return error.status == 403 or (kind.optional and error.status in (404, 503))
