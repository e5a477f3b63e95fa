"""The status text of a pod, its ready containers and its restarts, as `kubectl get pods` has them.

The API server makes those columns itself; the rules here are those of its printer
(`printPod` in pkg/printers/internalversion/printers.go of kubernetes/kubernetes), and a test
compares the two over the awkward cases on a real server.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from almenara_kubernetes.objects import Container, ContainerStatus, Pod
from almenara_kubernetes.quantities import moment

ENDED: Final = frozenset(("Succeeded", "Failed"))
"""Phases that a pod does not leave any more."""


class Printed(msgspec.Struct, frozen=True, kw_only=True):
    """The columns READY, STATUS and RESTARTS."""

    status: str
    ready: int
    """Containers that are ready, sidecars among them."""
    total: int
    """Containers that should be."""
    restarts: int
    restarted: int | None
    """When the last of them was, in microseconds since the epoch."""


class _Restarts:
    """Restarts of some containers, and when the last was."""

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None

    def add(self, status: ContainerStatus) -> None:
        self.count += status.restart_count
        ended = status.last_state.terminated
        when = moment(ended.finished_at) if ended is not None else None
        if when is not None and (self.last is None or when > self.last):
            self.last = when


def is_sidecar(container: Container | None) -> bool:
    """Whether an init container goes on beside the others."""
    return container is not None and container.restart_policy == "Always"


def printed(pod: Pod) -> Printed:
    """What kubectl shows of a pod."""
    status = pod.status
    text = status.reason or status.phase
    if any(
        it.type == "PodScheduled" and it.reason == "SchedulingGated" for it in status.conditions
    ):
        text = "SchedulingGated"
    inits = {it.name: it for it in pod.spec.init_containers}
    sidecars = frozenset(name for name, it in inits.items() if is_sidecar(it))
    total = len(pod.spec.containers) + sum(map(is_sidecar, pod.spec.init_containers))
    ready = 0
    restarts, of_sidecars = _Restarts(), _Restarts()
    initializing = False
    for place, one in enumerate(status.init_container_statuses):
        restarts.add(one)
        if one.name in sidecars:
            of_sidecars.add(one)
        held = _held_by(one, sidecar=one.name in sidecars)
        if held is None:
            ended = one.state.terminated
            # A sidecar that has ended well is past, however ready it says it is.
            past = ended is not None and ended.exit_code == 0
            ready += one.ready and one.name in sidecars and not past
            continue
        text = held or f"Init:{place}/{len(pod.spec.init_containers)}"
        initializing = True
        break
    if not initializing or _is_true(pod, "Initialized"):
        restarts = of_sidecars
        running = 0
        for one in reversed(status.container_statuses):
            restarts.add(one)
            told = _told(one)
            if told:
                text = told
            elif one.ready and one.state.running is not None:
                running += 1
        ready += running
        if text == "Completed" and running:
            text = "Running" if _is_true(pod, "Ready") else "NotReady"
    if pod.metadata.deletion_timestamp:
        if status.reason == "NodeLost":
            text = "Unknown"
        elif status.phase not in ENDED:
            text = "Terminating"
    return Printed(
        status=text, ready=ready, total=total, restarts=restarts.count, restarted=restarts.last
    )


def _held_by(one: ContainerStatus, *, sidecar: bool) -> str | None:
    """What an init container holds its pod up with: None for nothing, "" for being at work."""
    ended, waiting = one.state.terminated, one.state.waiting
    if ended is not None and ended.exit_code == 0:
        return None
    if sidecar and one.started:
        return None
    if ended is not None:
        return f"Init:{ended.reason or _code(ended.signal, ended.exit_code)}"
    if waiting is not None and waiting.reason not in ("", "PodInitializing"):
        return f"Init:{waiting.reason}"
    return ""


def _told(one: ContainerStatus) -> str:
    """The word of a container that waits or has ended; empty for one that runs."""
    ended, waiting = one.state.terminated, one.state.waiting
    if waiting is not None and waiting.reason:
        return waiting.reason
    if ended is not None:
        return ended.reason or _code(ended.signal, ended.exit_code)
    return ""


def _code(signal: int, exit_code: int) -> str:
    return f"Signal:{signal}" if signal else f"ExitCode:{exit_code}"


def _is_true(pod: Pod, condition: str) -> bool:
    found: Iterable[str] = (it.status for it in pod.status.conditions if it.type == condition)
    return "True" in found
