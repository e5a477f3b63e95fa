"""Pods as resources: what is displayed of a pod, and how serious its status is."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

from almenara.signals import Severity
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.mapping.conditions import LONGEST_MESSAGE, map_conditions
from almenara_kubernetes.mapping.kubectl_columns import (
    KubectlColumns,
    is_sidecar,
    kubectl_columns,
)
from almenara_kubernetes.mapping.pod_resources import sum_resources
from almenara_kubernetes.models import Container, ContainerState, ContainerStatus, Pod, PodSpec
from almenara_kubernetes.quantities import parse_quantity, parse_timestamp

PENDING: Final = frozenset(
    ("Pending", "ContainerCreating", "PodInitializing", "NotReady", "SchedulingGated")
)
COMPLETED: Final = frozenset(("Terminating", "Completed", "Succeeded"))


def pod_severity(status: str, pod: Pod, columns: KubectlColumns) -> Severity:
    """How serious a status is: `INFO` for a ready pod, `DEBUG` for a completed one, `WARN` for a
    pending one, `ERROR` for a failing one."""
    if pod.status.phase == "Failed":
        return Severity.ERROR
    if pod.status.phase == "Succeeded" or status in COMPLETED:
        return Severity.DEBUG
    if status == "Running":
        # Its containers may be ready while the pod is not: the node is lost, or a gate is closed.
        is_unready = any(
            condition.type == "Ready" and condition.status != "True"
            for condition in pod.status.conditions
        )
        return Severity.WARN if is_unready or columns.ready < columns.total else Severity.INFO
    step = status.removeprefix("Init:")
    if step in PENDING or (step != status and step.partition("/")[0].isdigit()):
        return Severity.WARN
    return Severity.ERROR


def map_pod(pod: Pod, labels: Mapping[str, str]) -> Mapped:
    """The status, severity and state of a pod's resource, except its owners.

    Times are microseconds since the epoch, CPU is in cores, memory in bytes. What is unknown or
    empty is left out.
    """
    columns = kubectl_columns(pod)
    spec, status = pod.spec, pod.status
    text = columns.status or "Unknown"
    image = spec.containers[0].image if spec.containers else ""
    statuses = {
        container.name: container
        for container in chain(
            status.init_container_statuses,
            status.container_statuses,
            status.ephemeral_container_statuses,
        )
    }
    state: dict[str, Any] = {
        "ready": columns.ready,
        "total": columns.total,
        "restarts": columns.restarts,
        "restarted": columns.restarted,
        "phase": status.phase,
        "node": spec.node_name,
        "nominated_node": status.nominated_node_name,
        "ip": status.pod_ip,
        "qos": status.qos_class,
        "reason": status.reason,
        "message": status.message[:LONGEST_MESSAGE],
        "deleted": parse_timestamp(pod.metadata.deletion_timestamp),
        "image": image,
        "version": image_version(image, pod.metadata.labels),
        "last": _last_termination(statuses.values()),
        "conditions": map_conditions(status.conditions),
        "gates": _open_gates(pod),
        "containers": [
            _map_container(container, role, statuses.get(container.name))
            for role, container in _containers(spec)
        ],
        "labels": dict(labels),
        "account": spec.service_account_name,
        "priority": spec.priority_class_name,
        **sum_resources(spec),
    }
    state = {
        name: value
        for name, value in state.items()
        if value is not None and value not in ("", {}, [])
    }
    return text, pod_severity(text, pod, columns), state


def image_version(image: str, labels: Mapping[str, str] = {}) -> str:
    """The version of an image: its tag, the label, or the start of its digest."""
    name, _, digest = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    if colon:
        return tag
    if version := labels.get("app.kubernetes.io/version"):
        return version
    return digest.removeprefix("sha256:")[:12]


def _containers(spec: PodSpec) -> Iterable[tuple[str, Container]]:
    for container in spec.init_containers:
        yield "sidecar" if is_sidecar(container) else "init", container
    for container in spec.containers:
        yield "", container
    for container in spec.ephemeral_containers:
        yield "debug", container


def _map_container(
    container: Container, role: str, status: ContainerStatus | None
) -> dict[str, Any]:
    word, details = _describe_state(status.state) if status is not None else ("", {})
    requests, limits = container.resources.requests, container.resources.limits
    row: dict[str, Any] = {
        "name": container.name,
        "role": role,
        "image": container.image,
        "state": word,
        **details,
        "ready": status.ready if status is not None else False,
        "restarts": status.restart_count if status is not None else 0,
        "cpu_request": parse_quantity(requests.get("cpu")),  # nosec B113 # a mapping of a pod, not the library
        "cpu_limit": parse_quantity(limits.get("cpu")),
        "memory_request": parse_quantity(requests.get("memory")),  # nosec B113 # a mapping of a pod, not the library
        "memory_limit": parse_quantity(limits.get("memory")),
        "ports": [f"{port.container_port}/{port.protocol}" for port in container.ports],
        "last": _map_termination(status.last_state) if status is not None else None,
    }
    return {
        name: value for name, value in row.items() if value is not None and value not in ("", [])
    }


def _describe_state(state: ContainerState) -> tuple[str, dict[str, Any]]:
    """The state of a container in a word, and since when or why."""
    if (running := state.running) is not None:
        return "Running", {"since": parse_timestamp(running.started_at)}
    if (terminated := state.terminated) is not None:
        word = terminated.reason or ("Completed" if terminated.exit_code == 0 else "Error")
        return word, {
            "since": parse_timestamp(terminated.finished_at),
            "exit_code": terminated.exit_code,
            "message": terminated.message[:LONGEST_MESSAGE],
        }
    if (waiting := state.waiting) is not None:
        return waiting.reason or "Waiting", {"message": waiting.message[:LONGEST_MESSAGE]}
    return "Waiting", {}


def _map_termination(state: ContainerState) -> dict[str, Any] | None:
    terminated = state.terminated
    if terminated is None:
        return None
    row = {
        "reason": terminated.reason or ("Completed" if terminated.exit_code == 0 else "Error"),
        "exit_code": terminated.exit_code,
        "signal": terminated.signal,
        "started": parse_timestamp(terminated.started_at),
        "finished": parse_timestamp(terminated.finished_at),
        "message": terminated.message[:LONGEST_MESSAGE],
    }
    return {name: value for name, value in row.items() if value is not None and value not in ("",)}


def _last_termination(statuses: Iterable[ContainerStatus]) -> dict[str, Any] | None:
    """The latest termination, with the container's name; an init container that has completed does
    not count."""
    terminations = [
        {**termination, "container": status.name}
        for status in statuses
        for state in (status.last_state, status.state)
        if (termination := _map_termination(state)) is not None
        and (termination["exit_code"] != 0 or state is status.last_state)
    ]
    return max(terminations, key=lambda row: row.get("finished", 0)) if terminations else None


def _open_gates(pod: Pod) -> str:
    """How many of the pod's readiness gates are open: `1/2`; empty without gates."""
    gates = pod.spec.readiness_gates
    if not gates:
        return ""
    true = {condition.type for condition in pod.status.conditions if condition.status == "True"}
    return f"{sum(gate.condition_type in true for gate in gates)}/{len(gates)}"
