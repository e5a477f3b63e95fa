"""The status of a cluster: whether it answers, what is not listed yet, and what RBAC forbids."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from almenara.hookspecs import SourceReport
from almenara.sdk import HealthAggregator, monotonic, now
from almenara.signals import Resource, Severity
from almenara_kube.client import ApiClient
from almenara_kube.kinds import WatchedKind
from almenara_kube.list_watch import WatchStatus
from almenara_kubernetes.kinds import NAMESPACES
from almenara_kubernetes.outbox import Outbox
from almenara_kubernetes.rbac import describe_missing, metrics_kinds
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings, watched_kinds

CLUSTER: Final = "kubernetes.cluster"
ACCESS: Final = "kubernetes.access"
LISTED: Final = 5
API_SERVER: Final = "API server"
PERMISSIONS: Final = "permissions"
LISTING: Final = "listing"
START_LIMIT: Final = 10.0
"""Seconds after the start from which it is a problem that something is not known yet."""

NOT_ANSWERED: Final = "it has not answered yet"
Part = tuple[str, str]
"""The kind of resource and the namespace of a watch."""


def cluster_name(cluster: ClusterSettings) -> str:
    """The name of the resource of a cluster."""
    return cluster.name or "cluster"


class ClusterStatus:
    """Publishes the status of a cluster as a resource, and reports the health of its source.

    It is `ok` once every kind is listed, `syncing` before, `partial` while some kinds cannot be
    watched, and `unreachable` while the API server does not answer.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        settings: KubernetesSettings,
        client: ApiClient,
        outbox: Outbox,
        report: SourceReport,
    ) -> None:
        self.cluster, self.client, self.outbox = cluster, client, outbox
        self._health = HealthAggregator(report)
        self._kinds: Mapping[str, WatchedKind] = {
            **{f"{kind.kind}.usage": kind for kind in metrics_kinds(settings, cluster)},
            **{kind.kind: kind for kind in (*watched_kinds(settings, cluster), NAMESPACES)},
        }
        self._unreachable = NOT_ANSWERED
        self._started = monotonic()
        self._since = now()
        """Microseconds since the epoch: since when the server answers, or does not."""
        self._problems: dict[Part, tuple[WatchStatus, str]] = {}
        self._pending: set[Part] = set()
        self._published_problems: set[Part] = set()
        self._unmeasured: dict[Part, str] = {}
        """Why usage is unknown, where metrics are not served."""
        self._changed = asyncio.Event()

    def note_reachable(self, reason: str) -> None:
        """Note why the API server does not answer; an empty reason means that it does."""
        if bool(reason) != bool(self._unreachable):
            self._since = now()
        if reason != self._unreachable:
            self._unreachable = reason
            self._changed.set()

    def note_watch(self, part: Part, kind: WatchedKind, status: WatchStatus, reason: str) -> None:
        """Note the status of the watch of a kind in a namespace."""
        before = self._problems.get(part), part in self._pending
        self._pending.discard(part)
        self._problems.pop(part, None)
        if status == "pending":
            self._pending.add(part)
        elif status != "ok" and not (status == "absent" and kind.optional):
            self._problems[part] = status, reason
        if before != (self._problems.get(part), part in self._pending):
            self._changed.set()

    def forget_watch(self, part: Part) -> None:
        """Forget a watch that has ended on purpose."""
        if self._problems.pop(part, None) is not None or part in self._pending:
            self._changed.set()
        self._pending.discard(part)

    def note_usage(self, part: Part, reason: str) -> None:
        """Note why the usage of a kind in a namespace is unknown; empty where it is known."""
        before = self._unmeasured.pop(part, "")
        if reason:
            self._unmeasured[part] = reason
        if reason != before:
            self._changed.set()

    def is_known(self, kind: str) -> bool:
        """Whether the server answers, and the objects of a kind are listed and watched."""
        parts = (*self._pending, *self._problems)
        return not self._unreachable and all(part[0] != kind for part in parts)

    async def run(self) -> None:
        """Publish whenever the status changes, until cancelled."""
        while True:
            self._changed.clear()
            self._report_health()
            problems = dict(self._problems)
            await self.outbox.add([self._cluster_resource(), *self._access_resources(problems)])
            limit = START_LIMIT - (monotonic() - self._started)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit if self._is_starting else None):
                    await self._changed.wait()

    @property
    def _is_starting(self) -> bool:
        return monotonic() - self._started < START_LIMIT

    def _report_health(self) -> None:
        reasons: dict[str, str] = {}
        if self._unreachable == NOT_ANSWERED and self._is_starting:
            return
        if self._unreachable:
            # The watches fail for the same reason.
            reasons[API_SERVER] = self._unreachable
        else:
            if forbidden := _describe_forbidden(self._problems):
                reasons[PERMISSIONS] = forbidden
            for (kind, namespace), (status, reason) in self._problems.items():
                if status != "forbidden":
                    reasons[f"{kind}/{namespace}"] = reason
            if self._pending and not self._is_starting:
                reasons[LISTING] = "not every kind is listed yet"
        for part, reason in reasons.items():
            self._health.note(part, reason)
        for part in [*self._health.failing, API_SERVER]:
            if part not in reasons:
                self._health.clear(part)

    def _cluster_resource(self) -> Resource:
        status, severity = "ok", Severity.INFO
        if self._unreachable:
            status, severity = "unreachable", Severity.ERROR
        elif self._problems:
            status, severity = "partial", Severity.WARN
        elif self._pending:
            status = "syncing"
        reason = self._health.summary
        unmeasured = next(iter(self._unmeasured.values()), "")
        version = ".".join(map(str, self.client.version)) if any(self.client.version) else ""
        return Resource(
            kind=CLUSTER,
            name=cluster_name(self.cluster),
            status=status,
            severity=severity,
            state={
                "server": self.client.server, "version": version, "since": self._since,
                **({"reason": reason} if reason else {}),
                **({"usage": unmeasured} if unmeasured else {}),
                **({"simulated": True} if self.cluster.simulated else {}),
            },
        )  # fmt: skip

    def _access_resources(
        self, problems: Mapping[Part, tuple[WatchStatus, str]]
    ) -> Sequence[Resource]:
        """The kinds that cannot be watched, each with the missing rule, and the solved ones."""
        solved = self._published_problems - set(problems)
        self._published_problems = set(problems)
        return [
            *(self._access_resource(part, "ok", "", deleted=True) for part in solved),
            *(self._access_resource(part, *problem) for part, problem in problems.items()),
        ]

    def _access_resource(
        self, part: Part, status: WatchStatus, reason: str, *, deleted: bool = False
    ) -> Resource:
        kind, namespace = part
        state = {"kind": kind, "reason": reason}
        if self.cluster.name:
            state["cluster"] = self.cluster.name
        if status == "forbidden":
            state["rule"] = describe_missing(self._kinds[kind], namespace)
        return Resource(
            kind=ACCESS,
            namespace="/".join(filter(None, (self.cluster.name, namespace))),
            name=kind.removeprefix("kubernetes."),
            status=status,
            severity=Severity.WARN,
            state=state,
            deleted=deleted,
        )


def _describe_forbidden(problems: Mapping[Part, tuple[WatchStatus, str]]) -> str:
    """The kinds that RBAC forbids, in a sentence; empty where it forbids none."""
    forbidden = sorted(
        f"{kind.removeprefix('kubernetes.')}{f' in {namespace}' if namespace else ''}"
        for (kind, namespace), (status, _) in problems.items()
        if status == "forbidden"
    )
    if not forbidden:
        return ""
    more = len(forbidden) - LISTED
    return (
        f"RBAC forbids {', '.join(forbidden[:LISTED])}{f' and {more} more' if more > 0 else ''};"
        " `almenara kubernetes rbac` prints the rules that are needed"
    )
