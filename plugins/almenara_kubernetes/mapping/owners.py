"""Which workload an object belongs to: owner references, followed to the top."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from almenara_kube.objects import Metadata, OwnerReference

HIGHEST: Final = 8
"""Owners above one another at most; more would be a circle."""
POD_TEMPLATE_HASH: Final = "pod-template-hash"
NOT_WORKLOADS: Final = frozenset(("Node",))
"""Owners of pods that are not workloads: nodes own the mirrors of their static pods."""
GROUPS: Final[Mapping[str, str]] = {
    "Pod": "", "Node": "", "ReplicationController": "", "Service": "",
    "PersistentVolumeClaim": "", "Namespace": "",
    "ReplicaSet": "apps", "Deployment": "apps", "StatefulSet": "apps", "DaemonSet": "apps",
    "Job": "batch", "CronJob": "batch", "HorizontalPodAutoscaler": "autoscaling",
    "Ingress": "networking.k8s.io",
}  # fmt: skip
"""The API group of the built-in kinds."""

Key = tuple[str, str]
Chain = list[tuple[str, str, str]]
"""Kind, name and uid of the owners of an object, the nearest first."""


class _Owner(msgspec.Struct, frozen=True):
    kind: str
    name: str
    above: OwnerReference | None


class OwnerIndex:
    """Knows which object owns which, in whatever order objects arrive."""

    def __init__(self) -> None:
        self._owners: dict[str, _Owner] = {}
        self._pods: dict[str, set[Key]] = defaultdict(set)
        """The pods below an owner, by its uid."""

    def add(self, kind: str, metadata: Metadata) -> frozenset[Key]:
        """Add an object that may own pods; return the pods whose chain this changes."""
        owner = _Owner(kind, metadata.name, find_controller(metadata))
        if self._owners.get(metadata.uid) == owner:
            return frozenset()
        self._owners[metadata.uid] = owner
        return frozenset(self._pods.get(metadata.uid, ()))

    def remove(self, uid: str) -> None:
        """Remove an object that is deleted."""
        self._owners.pop(uid, None)

    def owner_of(self, uid: str) -> OwnerReference | None:
        """The owner of an object that may own pods."""
        owner = self._owners.get(uid)
        return owner.above if owner is not None else None

    def chain(self, metadata: Metadata) -> Chain:
        """The owners of an object, the nearest first."""
        owners: Chain = []
        above = find_controller(metadata)
        while above is not None and len(owners) < HIGHEST:
            kind = qualified_kind(above.kind, above.api_version)
            owners.append((kind, above.name, above.uid))
            known = self._owners.get(above.uid)
            if known is not None:
                above = known.above
                continue
            # Without known replica sets, the hash in their names leads to the deployment.
            suffix = f"-{metadata.labels.get(POD_TEMPLATE_HASH, '')}"
            if kind == "ReplicaSet" and len(suffix) > 1 and above.name.endswith(suffix):
                owners.append(("Deployment", above.name.removesuffix(suffix), ""))
            break
        return owners

    def add_pod(self, key: Key, chain: Iterable[tuple[str, str, str]]) -> None:
        """Remember the owners of a pod."""
        for _, _, uid in chain:
            if uid:
                self._pods[uid].add(key)

    def remove_pod(self, key: Key, uids: Iterable[str]) -> None:
        """Forget a pod that is deleted."""
        for uid in uids:
            pods = self._pods.get(uid)
            if pods is not None:
                pods.discard(key)
                if not pods:
                    del self._pods[uid]


def qualified_kind(kind: str, api_version: str) -> str:
    """The kind, with its API group where a built-in kind has the same name.

    The `StatefulSet` of `apps.kruise.io` is not that of `apps`. References without a version, and
    those of kinds that are not built in, stay as they are.
    """
    builtin = GROUPS.get(kind)
    group = api_version.rpartition("/")[0]
    if builtin is None or not api_version or group == builtin:
        return kind
    # Older versions of a built-in kind were served by other groups of Kubernetes itself.
    if group in ("extensions", "apps", "batch", "autoscaling"):
        return kind
    return f"{kind}.{group}" if group else kind


def find_controller(metadata: Metadata) -> OwnerReference | None:
    """The owner that manages an object, or None."""
    owners = metadata.owner_references
    return next((owner for owner in owners if owner.controller), None)


def top_workload(chain: Iterable[tuple[str, str, str]], name: str) -> str:
    """The top of a chain as `Deployment/checkout`; the pod itself where nothing owns it."""
    top = None
    for kind, owner, _ in chain:
        if kind in NOT_WORKLOADS:
            break
        top = f"{kind}/{owner}"
    return top or f"Pod/{name}"


def select_labels(labels: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    """The labels whose names match the patterns; a `*` at the end matches the rest of a name."""
    return {
        name: value
        for name, value in labels.items()
        if any(
            name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
            for pattern in patterns
        )
    }
