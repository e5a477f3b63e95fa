"""Pods whose status text is easily got wrong, and what kubectl prints of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LATER, EARLIER = "2026-11-20T10:30:00Z", "2026-11-20T10:00:00Z"

Tree = Mapping[str, Any]


def running(name: str = "main", *, ready: bool = True, restarts: int = 0, **more: Any) -> Tree:
    return container_status(
        name, {"running": {"startedAt": EARLIER}}, ready=ready, restarts=restarts, **more
    )


def waiting(name: str = "main", reason: str = "", *, restarts: int = 0, **more: Any) -> Tree:
    return container_status(
        name, {"waiting": {"reason": reason} if reason else {}}, restarts=restarts, **more
    )


def ended(
    name: str = "main", code: int = 0, reason: str = "", signal: int = 0, **more: Any
) -> Tree:
    return container_status(name, {"terminated": termination(code, reason, signal)}, **more)


def termination(code: int = 0, reason: str = "", signal: int = 0, at: str = LATER) -> Tree:
    match: dict[str, Any] = {"exitCode": code, "startedAt": EARLIER, "finishedAt": at}
    return match | ({"reason": reason} if reason else {}) | ({"signal": signal} if signal else {})


def container_status(
    name: str, state: Tree, *, ready: bool = False, restarts: int = 0, last: Tree | None = None,
    **more: Any,
) -> Tree:  # fmt: skip
    return {
        "name": name, "image": "example.org/it:1", "imageID": "", "ready": ready,
        "restartCount": restarts, "state": state,
        "lastState": {"terminated": last} if last is not None else {}, **more,
    }  # fmt: skip


def true(*types: str) -> list[Tree]:
    return [{"type": each, "status": "True", "lastTransitionTime": EARLIER} for each in types]


def false(kind: str, reason: str = "") -> list[Tree]:
    return [{"type": kind, "status": "False", "reason": reason, "lastTransitionTime": EARLIER}]


@dataclass(frozen=True)
class Awkward:
    """A pod and its columns READY, STATUS and RESTARTS, without how long ago that was."""

    name: str
    status: str
    ready: str
    restarts: int = 0
    phase: str = "Running"
    reason: str = ""
    mains: Sequence[str] = ("main",)
    inits: Sequence[str] = ()
    sidecars: Sequence[str] = ()
    """Those of the init containers that go on."""
    containers: Sequence[Tree] = ()
    initialized: Sequence[Tree] = ()
    conditions: Sequence[Tree] = ()
    deleted: bool = False
    gated: bool = False
    gates: Sequence[str] = ()
    more: Tree = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        def container(name: str, **rest: Any) -> dict[str, Any]:
            return {"name": name, "image": "example.org/it:1", **rest}

        match: dict[str, Any] = {
            "containers": [container(each) for each in self.mains],
            "initContainers": [
                container(each, **({"restartPolicy": "Always"} if each in self.sidecars else {}))
                for each in self.inits
            ],
        }
        if self.gates:
            match["readinessGates"] = [{"conditionType": each} for each in self.gates]
        if self.gated:
            match["schedulingGates"] = [{"name": "example.org/quota"}]
        else:
            match["nodeName"] = "node-1"
        return match

    def pod_status(self) -> dict[str, Any]:
        """Its status, as kubelet would write it."""
        match: dict[str, Any] = {
            "phase": self.phase, "conditions": list(self.conditions),
            "containerStatuses": list(self.containers),
            "initContainerStatuses": list(self.initialized), **self.more,
        }  # fmt: skip
        return match | ({"reason": self.reason} if self.reason else {})

    def tree(self) -> dict[str, Any]:
        """The whole object."""
        stamp = {"deletionTimestamp": LATER} if self.deleted else {}
        return {
            "metadata": {"name": self.name, "namespace": "awkward", "uid": self.name, **stamp},
            "spec": self.spec(), "status": self.pod_status(),
        }  # fmt: skip


OOM = termination(137, "OOMKilled", at=LATER)
OLDER = termination(1, "Error", at=EARLIER)

AWKWARD: Sequence[Awkward] = (
    Awkward("plain", "Running", "1/1", containers=[running()], conditions=true("Ready")),
    Awkward("never-seen", "Pending", "0/1", phase="Pending"),
    Awkward("gated", "SchedulingGated", "0/1", phase="Pending", gated=True,
            conditions=false("PodScheduled", "SchedulingGated")),
    Awkward("creating", "ContainerCreating", "0/1", phase="Pending",
            containers=[waiting(reason="ContainerCreating")]),
    Awkward("initializing", "PodInitializing", "0/1", phase="Pending", inits=["a"],
            initialized=[ended("a", 0, "Completed", ready=True)],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("waits-without-reason", "Pending", "0/1", phase="Pending", containers=[waiting()]),
    Awkward("crash-loop", "CrashLoopBackOff", "0/1", restarts=7,
            containers=[waiting(reason="CrashLoopBackOff", restarts=7, last=OOM)]),
    Awkward("image-pull", "ImagePullBackOff", "0/1", phase="Pending",
            containers=[waiting(reason="ImagePullBackOff")]),
    Awkward("bad-image-name", "InvalidImageName", "0/1", phase="Pending",
            containers=[waiting(reason="InvalidImageName")]),
    Awkward("bad-config", "CreateContainerConfigError", "0/1", phase="Pending",
            containers=[waiting(reason="CreateContainerConfigError")]),
    Awkward("out-of-memory", "OOMKilled", "0/1", containers=[ended(code=137, reason="OOMKilled")]),
    Awkward("completed", "Completed", "0/1", phase="Succeeded",
            containers=[ended(reason="Completed")]),
    Awkward("succeeded-untold", "Succeeded", "0/1", phase="Succeeded"),
    Awkward("failed", "Error", "0/1", phase="Failed", containers=[ended(code=2, reason="Error")]),
    Awkward("exit-code", "ExitCode:3", "0/1", phase="Failed", containers=[ended(code=3)]),
    Awkward("signalled", "Signal:9", "0/1", phase="Failed",
            containers=[ended(code=137, signal=9)]),
    Awkward("exit-code-zero", "ExitCode:0", "0/1", phase="Succeeded", containers=[ended()]),
    Awkward("evicted", "Evicted", "0/1", phase="Failed", reason="Evicted",
            more={"message": "The node was low on resource: memory."}),
    Awkward("evicted-with-container", "Error", "0/1", phase="Failed", reason="Evicted",
            containers=[ended(code=137, reason="Error")]),
    Awkward("deadline", "DeadlineExceeded", "0/1", phase="Failed", reason="DeadlineExceeded"),
    Awkward("node-affinity", "NodeAffinity", "0/1", phase="Failed", reason="NodeAffinity"),
    Awkward("unknown", "Unknown", "0/1", phase="Unknown"),
    Awkward("node-lost-still-there", "NodeLost", "0/1", reason="NodeLost"),
    Awkward("node-lost-deleted", "Unknown", "1/1", reason="NodeLost", deleted=True,
            containers=[running()], conditions=true("Ready")),
    Awkward("terminating", "Terminating", "1/1", deleted=True, containers=[running()],
            conditions=true("Ready")),
    Awkward("terminating-crashed", "Terminating", "0/1", restarts=2, deleted=True,
            containers=[waiting(reason="CrashLoopBackOff", restarts=2, last=OLDER)]),
    Awkward("two-of-three-init", "Init:1/3", "0/1", phase="Pending", inits=["a", "b", "c"],
            initialized=[ended("a", reason="Completed"), running("b", ready=False),
                         waiting("c", "PodInitializing")],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("init-waits", "Init:0/2", "0/1", phase="Pending", inits=["a", "b"],
            initialized=[waiting("a", "PodInitializing"), waiting("b", "PodInitializing")],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("init-crash-loop", "Init:CrashLoopBackOff", "0/1", restarts=4, phase="Pending",
            inits=["a"], initialized=[waiting("a", "CrashLoopBackOff", restarts=4, last=OLDER)],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("init-image", "Init:ErrImagePull", "0/1", phase="Pending", inits=["a"],
            initialized=[waiting("a", "ErrImagePull")],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("init-error", "Init:Error", "0/1", restarts=1, phase="Pending", inits=["a"],
            initialized=[ended("a", 1, "Error", restarts=1)],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("init-exit-code", "Init:ExitCode:5", "0/1", phase="Failed", inits=["a"],
            initialized=[ended("a", 5)], containers=[waiting(reason="PodInitializing")]),
    Awkward("init-signal", "Init:Signal:15", "0/1", phase="Failed", inits=["a"],
            initialized=[ended("a", 143, signal=15)]),
    Awkward("init-restarts-do-not-count", "Running", "1/1", restarts=1, inits=["a"],
            initialized=[ended("a", reason="Completed", restarts=5)],
            containers=[running(restarts=1, last=OOM)],
            conditions=true("Initialized", "Ready")),
    Awkward("sidecar-runs", "Running", "2/2", inits=["proxy"], sidecars=["proxy"],
            initialized=[running("proxy", started=True)], containers=[running()],
            conditions=true("Initialized", "Ready")),
    Awkward("sidecar-restarts-count", "Running", "2/2", restarts=5, inits=["a", "proxy"],
            sidecars=["proxy"],
            initialized=[ended("a", reason="Completed", restarts=3),
                         running("proxy", started=True, restarts=4, last=OOM)],
            containers=[running(restarts=1, last=OLDER)],
            conditions=true("Initialized", "Ready")),
    Awkward("sidecar-not-started", "Init:0/1", "0/2", phase="Pending", inits=["proxy"],
            sidecars=["proxy"], initialized=[running("proxy", ready=False, started=False)],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("sidecar-unready", "Running", "1/2", inits=["proxy"], sidecars=["proxy"],
            initialized=[running("proxy", ready=False, started=True)], containers=[running()],
            conditions=[*true("Initialized"), *false("Ready", "ContainersNotReady")]),
    Awkward("sidecar-crashes-later", "Init:CrashLoopBackOff", "1/2", restarts=3, inits=["proxy"],
            sidecars=["proxy"],
            initialized=[waiting("proxy", "CrashLoopBackOff", restarts=3, started=False,
                                 last=OLDER)],
            containers=[running()],
            conditions=[*true("Initialized"), *false("Ready", "ContainersNotReady")]),
    Awkward("sidecar-ended", "Completed", "0/2", phase="Succeeded", inits=["proxy"],
            sidecars=["proxy"], initialized=[ended("proxy", reason="Completed", started=False)],
            containers=[ended(reason="Completed")], conditions=true("Initialized")),
    Awkward("between-init-and-sidecar", "Init:1/2", "1/2", phase="Pending",
            inits=["proxy", "b"], sidecars=["proxy"],
            initialized=[running("proxy", started=True), running("b", ready=False)],
            containers=[waiting(reason="PodInitializing")]),
    Awkward("two-different-failures", "CrashLoopBackOff", "0/2", restarts=3, mains=["a", "b"],
            containers=[waiting("a", "CrashLoopBackOff", restarts=3, last=OLDER),
                        waiting("b", "ImagePullBackOff")]),
    Awkward("two-failures-the-other-way", "ImagePullBackOff", "0/2", restarts=3,
            mains=["a", "b"],
            containers=[waiting("a", "ImagePullBackOff"),
                        waiting("b", "CrashLoopBackOff", restarts=3, last=OLDER)]),
    Awkward("one-of-two-runs", "Error", "1/2", mains=["a", "b"],
            containers=[running("a"), ended("b", 1, "Error")]),
    Awkward("one-completed-one-ready", "Running", "1/2", mains=["a", "b"],
            containers=[ended("a", reason="Completed"), running("b")], conditions=true("Ready")),
    Awkward("one-completed-not-ready", "NotReady", "1/2", mains=["a", "b"],
            containers=[ended("a", reason="Completed"), running("b")],
            conditions=false("Ready", "ContainersNotReady")),
    Awkward("unready", "Running", "0/1", containers=[running(ready=False)],
            conditions=false("Ready", "ContainersNotReady")),
    Awkward("readiness-gate", "Running", "1/1", gates=["example.org/serving"],
            containers=[running()], conditions=false("Ready", "ReadinessGatesNotReady")),
    Awkward("deleted-after-success", "Completed", "0/1", phase="Succeeded", deleted=True,
            containers=[ended(reason="Completed")]),
    Awkward("failed-behind-a-completed-one", "Error", "0/2", phase="Failed", mains=["a", "b"],
            containers=[ended("a", reason="Completed"), ended("b", 1, "Error")]),
    Awkward("oom-behind-a-completed-one", "OOMKilled", "0/2", phase="Failed", mains=["a", "b"],
            containers=[ended("a", reason="Completed"), ended("b", 137, "OOMKilled")]),
    Awkward("completed-behind-a-failed-one", "Error", "0/2", phase="Failed", mains=["a", "b"],
            containers=[ended("a", 1, "Error"), ended("b", reason="Completed")]),
    Awkward("failed-beside-a-running-one", "Error", "1/3", mains=["a", "b", "c"],
            containers=[ended("a", reason="Completed"), ended("b", 2, "Error"), running("c")],
            conditions=false("Ready", "ContainersNotReady")),
    Awkward("failed-beside-a-running-one-and-ready", "Running", "1/3", mains=["a", "b", "c"],
            containers=[ended("a", reason="Completed"), ended("b", 2, "Error"), running("c")],
            conditions=true("Ready")),
    Awkward("failed-without-a-reason", "ExitCode:3", "0/2", phase="Failed", mains=["a", "b"],
            containers=[ended("a", reason="Completed"), ended("b", 3)]),
)  # fmt: skip
