"""The columns READY, STATUS and RESTARTS of a pod, as `kubectl get pods` prints them.

The API server makes those columns itself; the rules here are those of its printer (`printPod` in
pkg/printers/internalversion/printers.go of kubernetes/kubernetes 1.37), and a test compares the two
over the awkward cases on a real server.
"""

from typing import Final

import msgspec

from almenara_kubernetes.mapping.conditions import is_true
from almenara_kubernetes.models import Container, ContainerStatus, Pod
from almenara_kubernetes.quantities import parse_timestamp

FINAL_PHASES: Final = frozenset(("Succeeded", "Failed"))
"""Phases that a pod does not leave any more."""


class KubectlColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns READY, STATUS and RESTARTS."""

    status: str
    ready: int
    """Containers that are ready, sidecars among them."""
    total: int
    """Containers that should be."""
    restarts: int
    restarted: int | None
    """When the last restart was, in microseconds since the epoch."""


class _Restarts:
    """Counts the restarts of some containers, and remembers the last."""

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None

    def add(self, status: ContainerStatus) -> None:
        self.count += status.restart_count
        terminated = status.last_state.terminated
        time = parse_timestamp(terminated.finished_at) if terminated is not None else None
        if time is not None and (self.last is None or time > self.last):
            self.last = time


def is_sidecar(container: Container | None) -> bool:
    """Whether an init container keeps running beside the others."""
    return container is not None and container.restart_policy == "Always"


def kubectl_columns(pod: Pod) -> KubectlColumns:
    """The columns that kubectl prints for a pod."""
    status = pod.status
    text = status.reason or status.phase
    if any(
        condition.type == "PodScheduled" and condition.reason == "SchedulingGated"
        for condition in status.conditions
    ):
        text = "SchedulingGated"
    inits = pod.spec.init_containers
    sidecars = frozenset(container.name for container in inits if is_sidecar(container))
    total = len(pod.spec.containers) + sum(map(is_sidecar, inits))
    ready = 0
    restarts, sidecar_restarts = _Restarts(), _Restarts()
    is_initializing = False
    for place, container in enumerate(status.init_container_statuses):
        is_side = container.name in sidecars
        restarts.add(container)
        if is_side:
            sidecar_restarts.add(container)
        blocker = _init_blocker(container, is_sidecar=is_side)
        if blocker is None:
            terminated = container.state.terminated
            # A sidecar that has exited with 0 no longer counts, whatever its `ready` is.
            has_exited = terminated is not None and terminated.exit_code == 0
            ready += container.ready and is_side and not has_exited
            continue
        text = blocker or f"Init:{place}/{len(inits)}"
        is_initializing = True
        break
    if not is_initializing or is_true(status.conditions, "Initialized"):
        restarts = sidecar_restarts
        for container in status.container_statuses:
            restarts.add(container)
        text, running = _main_status(pod, text)
        ready += running
    if pod.metadata.deletion_timestamp:
        if status.reason == "NodeLost":
            text = "Unknown"
        elif status.phase not in FINAL_PHASES:
            text = "Terminating"
    return KubectlColumns(
        status=text, ready=ready, total=total, restarts=restarts.count, restarted=restarts.last
    )


def _main_status(pod: Pod, text: str) -> tuple[str, int]:
    """The status by the main containers, and how many of them are ready and running."""
    running = 0
    error = ""
    for container in reversed(pod.status.container_statuses):
        reason = _container_reason(container)
        if reason:
            text = reason
        elif container.ready and container.state.running is not None:
            running += 1
        terminated = container.state.terminated
        if reason and not _is_waiting(container) and terminated and terminated.exit_code != 0:
            error = reason
    if text == "Completed":
        if running and is_true(pod.status.conditions, "Ready"):
            text = "Running"
        elif error:
            text = error
        elif running:
            text = "NotReady"
    return text, running


def _init_blocker(container: ContainerStatus, *, is_sidecar: bool) -> str | None:
    """Why an init container blocks the start of its pod: None where it does not, and an empty text
    while it runs."""
    terminated, waiting = container.state.terminated, container.state.waiting
    if terminated is not None and terminated.exit_code == 0:
        return None
    if is_sidecar and container.started:
        return None
    if terminated is not None:
        return f"Init:{terminated.reason or _exit_code(terminated.signal, terminated.exit_code)}"
    if waiting is not None and waiting.reason not in ("", "PodInitializing"):
        return f"Init:{waiting.reason}"
    return ""


def _is_waiting(container: ContainerStatus) -> bool:
    waiting = container.state.waiting
    return waiting is not None and bool(waiting.reason)


def _container_reason(container: ContainerStatus) -> str:
    """The reason of a container that waits or has terminated; empty for one that runs."""
    terminated, waiting = container.state.terminated, container.state.waiting
    if waiting is not None and waiting.reason:
        return waiting.reason
    if terminated is not None:
        return terminated.reason or _exit_code(terminated.signal, terminated.exit_code)
    return ""


def _exit_code(signal: int, exit_code: int) -> str:
    return f"Signal:{signal}" if signal else f"ExitCode:{exit_code}"
