"""A pod as a resource: what of it is shown, and how much it should worry."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from almenara.signals import Severity
from almenara_kube.objects import Condition
from almenara_kubernetes.objects import Container, ContainerState, ContainerStatus, Pod, PodSpec
from almenara_kubernetes.pod_status import Printed, is_sidecar, printed
from almenara_kubernetes.quantities import moment, quantity

LONGEST_MESSAGE: Final = 500
DEVICE: Final = "/"
"""Extended resources, such as `nvidia.com/gpu`, have a domain; those of Kubernetes have none."""

STARTING: Final = frozenset(
    ("Pending", "ContainerCreating", "PodInitializing", "NotReady", "SchedulingGated")
)
ENDING: Final = frozenset(("Terminating", "Completed", "Succeeded"))


def severity(status: str, pod: Pod, columns: Printed) -> Severity:
    """How much a status should worry: `INFO` for a pod that serves, `DEBUG` for one that has done
    its work, `WARN` for one that is not there yet, `ERROR` for one that fails."""
    if status in ENDING:
        return Severity.DEBUG
    if status == "Running":
        # Its containers may be ready while it is not: its node is lost, or a gate is closed.
        unready = any(it.type == "Ready" and it.status != "True" for it in pod.status.conditions)
        return Severity.WARN if unready or columns.ready < columns.total else Severity.INFO
    step = status.removeprefix("Init:")
    if step in STARTING or (step != status and step.partition("/")[0].isdigit()):
        return Severity.WARN
    return Severity.ERROR


def pod_state(pod: Pod, labels: Mapping[str, str]) -> tuple[str, Severity, dict[str, Any]]:
    """The status, its severity and the state of a pod's resource, the owners excepted.

    Times are microseconds since the epoch, CPU is in cores, memory in bytes. What is unknown or
    empty is left out.
    """
    columns = printed(pod)
    spec, status = pod.spec, pod.status
    text = columns.status or "Unknown"
    main = spec.containers[0] if spec.containers else None
    reported = {it.name: it for it in chain(
        status.init_container_statuses, status.container_statuses,
        status.ephemeral_container_statuses,
    )}  # fmt: skip
    last = _last_termination(reported.values())
    state: dict[str, Any] = {
        "ready": columns.ready,
        "total": columns.total,
        "restarts": columns.restarts,
        "restarted": columns.restarted,
        "phase": status.phase,
        "node": spec.node_name,
        "ip": status.pod_ip,
        "qos": status.qos_class,
        "reason": status.reason,
        "message": status.message[:LONGEST_MESSAGE],
        "deleted": moment(pod.metadata.deletion_timestamp),
        "image": main.image if main is not None else "",
        "version": version(main.image if main is not None else "", pod.metadata.labels),
        "last": last,
        "conditions": conditions(status.conditions),
        "gates": _gates(pod),
        "containers": [
            _container(it, role, reported.get(it.name))
            for role, it in _containers(spec)
        ],
        "labels": dict(labels),
        "account": spec.service_account_name,
        "priority": spec.priority_class_name,
        **requested(spec),
    }  # fmt: skip
    kept = {name: it for name, it in state.items() if it is not None and it not in ("", {}, [])}
    return text, severity(text, pod, columns), kept


def version(image: str, labels: Mapping[str, str] = {}) -> str:
    """The version an image says it is of: its tag, the label, or the start of its digest."""
    name, _, digest = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    if colon:
        return tag
    if said := labels.get("app.kubernetes.io/version"):
        return said
    return digest.removeprefix("sha256:")[:12]


def _containers(spec: PodSpec) -> Iterable[tuple[str, Container]]:
    for it in spec.init_containers:
        yield "sidecar" if is_sidecar(it) else "init", it
    for it in spec.containers:
        yield "", it
    for it in spec.ephemeral_containers:
        yield "debug", it


def _container(declared: Container, role: str, reported: ContainerStatus | None) -> dict[str, Any]:
    word, details = _state(reported.state) if reported is not None else ("", {})
    requests, limits = declared.resources.requests, declared.resources.limits
    found: dict[str, Any] = {
        "name": declared.name,
        "role": role,
        "image": declared.image,
        "state": word,
        **details,
        "ready": reported.ready if reported is not None else False,
        "restarts": reported.restart_count if reported is not None else 0,
        "cpu_request": quantity(requests.get("cpu")),  # nosec B113 # a mapping of a pod, not the library
        "cpu_limit": quantity(limits.get("cpu")),
        "memory_request": quantity(requests.get("memory")),  # nosec B113 # a mapping of a pod, not the library
        "memory_limit": quantity(limits.get("memory")),
        "ports": [f"{it.container_port}/{it.protocol}" for it in declared.ports],
        "last": _ending(reported.last_state) if reported is not None else None,
    }
    return {name: it for name, it in found.items() if it is not None and it not in ("", [])}


def _state(state: ContainerState) -> tuple[str, dict[str, Any]]:
    """The word for what a container does, and since when or why."""
    if (running := state.running) is not None:
        return "Running", {"since": moment(running.started_at)}
    if (ended := state.terminated) is not None:
        word = ended.reason or ("Completed" if ended.exit_code == 0 else "Error")
        return word, {
            "since": moment(ended.finished_at),
            "exit_code": ended.exit_code,
            "message": ended.message[:LONGEST_MESSAGE],
        }
    if (waiting := state.waiting) is not None:
        return waiting.reason or "Waiting", {"message": waiting.message[:LONGEST_MESSAGE]}
    return "Waiting", {}


def _ending(state: ContainerState) -> dict[str, Any] | None:
    ended = state.terminated
    if ended is None:
        return None
    found = {
        "reason": ended.reason or ("Completed" if ended.exit_code == 0 else "Error"),
        "exit_code": ended.exit_code,
        "signal": ended.signal,
        "started": moment(ended.started_at),
        "finished": moment(ended.finished_at),
        "message": ended.message[:LONGEST_MESSAGE],
    }
    return {name: it for name, it in found.items() if it is not None and it not in ("",)}


def _last_termination(reported: Iterable[ContainerStatus]) -> dict[str, Any] | None:
    """How the container that ended last ended, with its name; endings that are wanted, of init
    containers, do not count."""
    found = [
        {**ending, "container": it.name}
        for it in reported
        for state in (it.last_state, it.state)
        if (ending := _ending(state)) is not None
        and (ending["exit_code"] != 0 or state is it.last_state)
    ]
    return max(found, key=lambda it: it.get("finished", 0)) if found else None


def _gates(pod: Pod) -> str:
    """How many of the pod's readiness gates are open: `1/2`; empty without gates."""
    gates = pod.spec.readiness_gates
    if not gates:
        return ""
    true = {it.type for it in pod.status.conditions if it.status == "True"}
    return f"{sum(it.condition_type in true for it in gates)}/{len(gates)}"


def conditions(found: Sequence[Condition]) -> list[dict[str, Any]]:
    """Conditions as they are shown."""
    rows: list[dict[str, Any]] = [
        {
            "type": it.type,
            "status": it.status,
            "reason": it.reason,
            "message": it.message[:LONGEST_MESSAGE],
            "since": moment(it.last_transition_time),
        }
        for it in found
    ]
    return [{name: it for name, it in row.items() if it is not None and it != ""} for row in rows]


def requested(spec: PodSpec) -> dict[str, Any]:
    """What a pod asks for and may use: `cpu_request`, `cpu_limit`, `memory_request`,
    `memory_limit` and `devices`.

    As the scheduler reckons it: what the pod itself asks for, where it does; else containers and
    sidecars together, or the largest init container with the sidecars started before it, whichever
    is more; the overhead on top. A limit is told only where the pod or every container has one.
    https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
    https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
    """
    found: dict[str, Any] = {}
    for name in ("cpu", "memory"):
        if asked := _reckoned(spec, name, "requests"):
            found[f"{name}_request"] = asked
        mains = [it.resources.limits.get(name) for it in spec.containers]
        if name in spec.resources.limits or (mains and None not in mains):
            found[f"{name}_limit"] = _reckoned(spec, name, "limits")
    devices = {
        name: amount
        for name in dict.fromkeys(
            name
            for it in (*spec.init_containers, *spec.containers)
            for name in (*it.resources.requests, *it.resources.limits)
            if DEVICE in name
        )
        if (amount := _reckoned(spec, name, "limits") or _reckoned(spec, name, "requests"))
    }
    if devices:
        found["devices"] = devices
    return found


def _reckoned(spec: PodSpec, name: str, which: str) -> float:
    overhead = quantity(spec.overhead.get(name)) or 0.0
    of_pod: Mapping[str, str | int | float] = getattr(spec.resources, which)
    if name in of_pod:
        return (quantity(of_pod[name]) or 0.0) + overhead

    def amount(it: Container) -> float:
        written: Mapping[str, str | int | float] = getattr(it.resources, which)
        return quantity(written.get(name)) or 0.0

    sidecars, peak = 0.0, 0.0
    for it in spec.init_containers:
        if is_sidecar(it):
            sidecars += amount(it)
        peak = max(peak, sidecars if is_sidecar(it) else sidecars + amount(it))
    together = sidecars + sum(map(amount, spec.containers))
    return max(together, peak) + overhead
