"""The store of simulated Kubernetes objects, and the states of pods."""

import itertools
import random
import uuid
from collections.abc import Callable
from typing import Any

from almenara.signals import format_time
from almenara.units import DAY, HOUR, SECOND
from almenara_demo.kubernetes_kinds import Change, Kind, Tree


class ObjectStore:
    """The objects of a cluster, and their changes. `clock` returns microseconds."""

    def __init__(self, clock: Callable[[], int], seed: int) -> None:
        self.random = random.Random(seed)  # nosec B311 # simulates a cluster
        self.clock = clock
        self.born = clock()
        self.objects: dict[str, dict[tuple[str, str], Tree]] = {}
        """By kind, and by namespace and name."""
        self.changes: list[Change] = []
        self._numbers = itertools.count(1)

    def put(self, kind: Kind, tree: Tree) -> Tree:
        """Make or change an object."""
        metadata = tree["metadata"]
        metadata["resourceVersion"] = str(next(self._numbers))
        self.objects.setdefault(kind.kind, {})[metadata.get("namespace", ""), metadata["name"]] = (
            tree
        )
        self.changes.append(Change(kind, tree))
        return tree

    def remove(self, kind: Kind, tree: Tree) -> None:
        """Delete an object."""
        metadata = tree["metadata"]
        self.objects[kind.kind].pop((metadata.get("namespace", ""), metadata["name"]), None)
        self.changes.append(Change(kind, tree, deleted=True))

    def metadata(self, namespace: str, name: str, age: int | None = None, **more: Any) -> Tree:
        """The metadata of an object of an age in microseconds; without one it is new."""
        created = self.clock() if age is None else self.born - age
        identity = uuid.uuid5(
            uuid.NAMESPACE_URL, f"{self.born}/{namespace}/{name}/{next(self._numbers)}"
        )
        metadata: Tree = {
            "name": name,
            "uid": str(identity),
            "creationTimestamp": format_time(created),
            "generation": 1,
        }
        return metadata | ({"namespace": namespace} if namespace else {}) | more  # fmt: skip

    def age(self) -> int:
        """An age that things of a cluster have."""
        return int(self.random.choice((3 * HOUR, 14 * HOUR, 2 * DAY, 9 * DAY, 31 * DAY)) * self.random.uniform(0.5, 1.5))  # fmt: skip

    def stamp(self, ago: float = 0.0) -> str:
        """A time so many seconds ago."""
        return format_time(self.clock() - int(ago * SECOND))


class PodLifecycle(ObjectStore):
    """Puts pods into the states that a kubelet reports."""

    def _statuses(self, tree: Tree, state: Tree, *, ready: bool) -> None:
        old = {entry["name"]: entry for entry in tree["status"].get("containerStatuses", ())}
        tree["status"]["containerStatuses"] = [
            {
                "name": entry["name"], "image": entry["image"], "ready": ready, "started": ready, "state": state,
                "restartCount": old.get(entry["name"], {}).get("restartCount", 0),
                "lastState": old.get(entry["name"], {}).get("lastState", {}),
            }
            for entry in tree["spec"]["containers"]
        ]  # fmt: skip

    def _ready(
        self, tree: Tree, ready: bool, since: str, reason: str = "ContainersNotReady"
    ) -> None:
        truth = "True" if ready else "False"
        tree["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": tree["metadata"]["creationTimestamp"]},
            {"type": "Initialized", "status": "True", "lastTransitionTime": tree["metadata"]["creationTimestamp"]},
            {"type": "Ready", "status": truth, "lastTransitionTime": since, **({} if ready else {"reason": reason})},
        ]  # fmt: skip

    def starts(self, tree: Tree) -> None:
        """A pod whose containers are being made."""
        tree["status"]["initContainerStatuses"] = [
            {"name": entry["name"], "ready": False, "state": {"waiting": {"reason": "PodInitializing"}}}
            for entry in tree["spec"]["initContainers"]
        ]  # fmt: skip
        reason = "PodInitializing" if tree["spec"]["initContainers"] else "ContainerCreating"
        self._statuses(tree, {"waiting": {"reason": reason}}, ready=False)
        self._ready(tree, False, self.stamp())

    def runs(self, tree: Tree, since: str = "") -> None:
        """A pod that serves."""
        since = since or self.stamp()
        tree["status"]["phase"] = "Running"
        tree["status"]["initContainerStatuses"] = [
            {"name": entry["name"], "ready": True, "started": True, "state": {"running": {"startedAt": since}}}
            if entry.get("restartPolicy") == "Always"
            else {"name": entry["name"], "ready": True, "state": {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": since}}}
            for entry in tree["spec"]["initContainers"]
        ]  # fmt: skip
        self._statuses(tree, {"running": {"startedAt": since}}, ready=True)
        self._ready(tree, True, since)

    def ends(self, tree: Tree, reason: str, code: int) -> None:
        """A pod whose container has ended."""
        self._statuses(tree, {"terminated": {"exitCode": code, "reason": reason, "finishedAt": self.stamp()}}, ready=False)  # fmt: skip
        self._ready(tree, False, self.stamp())

    def waits(self, tree: Tree, reason: str, message: str) -> None:
        """A pod whose container waits to be started again."""
        for entry in tree["status"]["containerStatuses"]:
            if "terminated" in entry["state"]:
                entry["lastState"] = entry["state"]
                entry["restartCount"] += 1
        self._statuses(tree, {"waiting": {"reason": reason, "message": message}}, ready=False)


def owner_reference(kind: str, tree: Tree) -> Tree:
    """The reference of an object to its owner."""
    metadata = tree["metadata"]
    return {"kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}


def is_ready(tree: Tree) -> bool:
    """Whether the condition `Ready` of a pod holds."""
    conditions = tree["status"].get("conditions", ())
    return any(row["type"] == "Ready" and row["status"] == "True" for row in conditions)
