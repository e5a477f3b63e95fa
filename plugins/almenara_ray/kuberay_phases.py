"""How the statuses of KubeRay's resources become one phase each, and which phases are new.

Conditions come first: KubeRay deprecates `state` and `serviceStatus` in favour of them, and keeps
the old value while a condition already reports a problem.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from almenara.hookspecs import Context
from almenara.signals import Severity
from almenara_kube.objects import Condition, Metadata
from almenara_ray.kuberay_models import RayCluster, RayCronJob, RayJob, RayService

STORE_KEY: Final = "(phases)"
TERMINAL_FAILURES: Final = ("FAILED", "STOPPED")
JOB_SEVERITIES: Final[Mapping[str, Severity]] = {
    "Failed": Severity.ERROR,
    "FAILED": Severity.ERROR,
    "ValidationFailed": Severity.ERROR,
    "Retrying": Severity.WARN,
    "Suspended": Severity.WARN,
    "Suspending": Severity.WARN,
}
"""Severity of a RayJob's phase; INFO for any other."""
CLUSTER_SEVERITIES: Final[Mapping[str, Severity]] = {
    "failed": Severity.ERROR,
    "unhealthy": Severity.ERROR,
    "head not ready": Severity.ERROR,
    "replica failure": Severity.WARN,
    "suspended": Severity.WARN,
    "suspending": Severity.WARN,
}
SERVICE_FAILURES: Final = ("Failed", "Restarting")
"""How the deprecated service statuses that report a failure start."""


class Phase(msgspec.Struct, frozen=True):
    """The state of a resource in a word, how much it matters, and why it is so."""

    name: str
    severity: Severity = Severity.INFO
    reason: str = ""

    @property
    def event(self) -> str:
        """The last part of the type of its event."""
        return self.name.lower().replace(" ", "_")


def job_phase(job: RayJob) -> Phase:
    """Return the phase of a RayJob: its deployment status or, once the job itself has ended before
    KubeRay is done with it, its job status."""
    status = job.status
    name = status.job_deployment_status or "New"
    is_final = name in ("Failed", "ValidationFailed", "Retrying")
    if name == "Complete" or (status.job_status in TERMINAL_FAILURES and not is_final):
        name = status.job_status or name
    return Phase(name, JOB_SEVERITIES.get(name, Severity.INFO))


def cluster_phase(cluster: RayCluster) -> Phase:
    """Return the phase of a RayCluster."""
    status = cluster.status
    conditions = {condition.type: condition for condition in status.conditions}
    name, reason = status.state or "starting", status.reason
    head, failure = conditions.get("HeadPodReady"), conditions.get("ReplicaFailure")
    if _is(conditions.get("RayClusterSuspended"), "True"):
        name = "suspended"
    elif _is(conditions.get("RayClusterSuspending"), "True"):
        name = "suspending"
    elif name in CLUSTER_SEVERITIES:
        pass
    elif head is not None and _is(head, "False"):
        was_ready = name == "ready" or _is(conditions.get("RayClusterProvisioned"), "True")
        name = "head not ready" if was_ready else "starting"
        reason = describe_condition(head)
    elif name == "starting" and _is(conditions.get("RayClusterProvisioned"), "True"):
        name = "ready"
    severity = CLUSTER_SEVERITIES.get(name, Severity.INFO)
    if failure is not None and _is(failure, "True"):
        reason = status.reason or failure.message or reason
        severity = max(severity, Severity.WARN)
        name = "replica failure" if name in ("ready", "starting") else name
    return Phase(name, severity, reason)


def service_phase(service: RayService, previous: str) -> Phase:
    """Return the phase of a RayService; `previous` is the name of the one before."""
    status = service.status
    conditions = {condition.type: condition for condition in status.conditions}
    ready = conditions.get("Ready")
    if ready is not None and _is(ready, "False"):
        return _unready_phase(service, ready, previous)
    if _is(conditions.get("RollbackInProgress"), "True"):
        return Phase("rolling back", Severity.WARN, _describe_upgrade(service))
    if _is(conditions.get("UpgradeInProgress"), "True"):
        return Phase("upgrading", Severity.INFO, _describe_upgrade(service))
    if ready is not None and _is(ready, "True"):
        return Phase("running")
    word = status.service_status
    if word.startswith(SERVICE_FAILURES):
        return Phase(word, Severity.ERROR)
    return Phase(word.lower() if word == "Running" else word or "starting")


def _unready_phase(service: RayService, ready: Condition, previous: str) -> Phase:
    reason = _find_application_problem(service) or describe_condition(ready)
    if ready.reason == "InitializingTimeout":
        return Phase("failed", Severity.ERROR, reason)
    # KubeRay has a service active once it has served.
    has_served = bool(service.status.active_service_status.ray_cluster_name)
    if has_served or previous not in ("", "starting") or ready.reason == "ZeroServeEndpoints":
        return Phase("not ready", Severity.ERROR, reason)
    return Phase("starting", Severity.WARN, reason)


def _find_application_problem(service: RayService) -> str:
    for name, application in service.status.active_service_status.application_statuses.items():
        if application.status in ("UNHEALTHY", "DEPLOY_FAILED"):
            return f"{name} {application.status}: {application.message}"
    return ""


def _describe_upgrade(service: RayService) -> str:
    active, pending = service.status.active_service_status, service.status.pending_service_status
    names = f"{active.ray_cluster_name or 'none'} → {pending.ray_cluster_name or 'none'}"
    percent = pending.traffic_routed_percent
    return f"{names}, {percent} % of traffic" if percent is not None else names


def cron_job_phase(cron_job: RayCronJob) -> Phase:
    """Return the phase of a RayCronJob."""
    return Phase("suspended" if cron_job.spec.suspend else "active")


def describe_condition(condition: Condition) -> str:
    """Return reason and message of a condition in one text."""
    return ": ".join(part for part in (condition.reason, condition.message) if part)


def _is(condition: Condition | None, status: str) -> bool:
    return condition is not None and condition.status == status


class PhaseRecord(msgspec.Struct):
    """The phase of one object, and how often it has entered each."""

    name: str
    counts: dict[str, int]


class PhaseLog:
    """Remembers the phases of objects, over restarts: what happens twice is two events, and what is
    only seen twice is one."""

    def __init__(self) -> None:
        self._records: dict[str, PhaseRecord] = {}
        self._is_changed = False

    async def restore(self, store: Context) -> None:
        """Read what an earlier run has stored."""
        stored = await store.load(STORE_KEY)
        try:
            if stored:
                self._records = msgspec.msgpack.decode(stored, type=dict[str, PhaseRecord])
        except msgspec.MsgspecError:
            # Without it, the current phases are published again, with the ids they have had.
            self._records = {}

    async def save(self, store: Context) -> None:
        """Store the phases, after their events are durable."""
        if self._is_changed:
            await store.save(STORE_KEY, msgspec.msgpack.encode(self._records))
            self._is_changed = False

    def previous(self, key: str) -> str:
        """Return the name of an object's phase; empty for an unknown object."""
        record = self._records.get(key)
        return record.name if record is not None else ""

    def enter(self, key: str, name: str) -> int:
        """Note the phase of an object, and return how often it has entered this one; 0 where it is
        in it already."""
        record = self._records.setdefault(key, PhaseRecord("", {}))
        if record.name == name:
            return 0
        record.name = name
        record.counts[name] = record.counts.get(name, 0) + 1
        self._is_changed = True
        return record.counts[name]

    def forget(self, key: str) -> None:
        """Forget an object that was deleted."""
        if self._records.pop(key, None) is not None:
            self._is_changed = True

    def keep_only(self, kind: str, namespace: str, keys: Collection[str]) -> None:
        """Forget the objects of a kind, in one namespace or, for an empty name, in all, that are
        not among `keys`: they were deleted while Almenara did not run."""
        prefix = f"{kind}/{namespace}/" if namespace else f"{kind}/"
        for key in [key for key in self._records if key.startswith(prefix)]:
            if key not in keys:
                self.forget(key)


def phase_key(kind: str, metadata: Metadata) -> str:
    """Return the key of an object in a `PhaseLog`. An object that is recreated has another uid."""
    return f"{kind}/{metadata.namespace}/{metadata.uid}"
