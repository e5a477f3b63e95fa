"""Which workload a pod belongs to: owner references, followed to the top."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from almenara_kube.objects import Metadata, OwnerReference

HIGHEST: Final = 8
"""Owners above one another at most; more would be a circle."""
HASH: Final = "pod-template-hash"
NO_WORKLOADS: Final = frozenset(("Node",))
"""What owns pods without being a workload: nodes own the mirrors of their static pods."""

Key = tuple[str, str]


class _Owner(msgspec.Struct, frozen=True):
    kind: str
    name: str
    above: OwnerReference | None


class Owners:
    """Remembers who owns what, in whichever order it is told."""

    def __init__(self) -> None:
        self._known: dict[str, _Owner] = {}
        self._pods: dict[str, set[Key]] = defaultdict(set)
        """The pods below an owner, by its uid."""

    def told(self, kind: str, metadata: Metadata) -> frozenset[Key]:
        """Take in an object that may own pods; the pods whose chain this changes."""
        found = _Owner(kind, metadata.name, controller(metadata))
        if self._known.get(metadata.uid) == found:
            return frozenset()
        self._known[metadata.uid] = found
        return frozenset(self._pods.get(metadata.uid, ()))

    def forget(self, uid: str) -> None:
        """Forget an object that is gone."""
        self._known.pop(uid, None)

    def above(self, uid: str) -> OwnerReference | None:
        """The owner of an object that may own pods."""
        known = self._known.get(uid)
        return known.above if known is not None else None

    def chain(self, metadata: Metadata) -> list[tuple[str, str, str]]:
        """Kind, name and uid of the owners of an object, the nearest first."""
        found: list[tuple[str, str, str]] = []
        above = controller(metadata)
        while above is not None and len(found) < HIGHEST:
            found.append((above.kind, above.name, above.uid))
            known = self._known.get(above.uid)
            if known is not None:
                above = known.above
                continue
            # Where replica sets are not known, the hash in their names gives the deployment away.
            hashed = f"-{metadata.labels.get(HASH, '')}"
            if above.kind == "ReplicaSet" and len(hashed) > 1 and above.name.endswith(hashed):
                found.append(("Deployment", above.name.removesuffix(hashed), ""))
            break
        return found

    def pod(self, key: Key, chain: Iterable[tuple[str, str, str]]) -> None:
        """Remember whose a pod is."""
        for _, _, uid in chain:
            if uid:
                self._pods[uid].add(key)

    def forget_pod(self, key: Key, uids: Iterable[str]) -> None:
        """Forget a pod that is gone."""
        for uid in uids:
            pods = self._pods.get(uid)
            if pods is not None:
                pods.discard(key)
                if not pods:
                    del self._pods[uid]


def controller(metadata: Metadata) -> OwnerReference | None:
    """The owner that manages an object, or None."""
    return next((it for it in metadata.owner_references if it.controller), None)


def workload(chain: Iterable[tuple[str, str, str]], name: str) -> str:
    """The top of a chain as `Deployment/checkout`; the pod itself where nothing owns it."""
    top = None
    for kind, owner, _ in chain:
        if kind in NO_WORKLOADS:
            break
        top = f"{kind}/{owner}"
    return top or f"Pod/{name}"


def wanted(labels: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    """The labels whose names are among the patterns; a last `*` stands for the rest of a name."""
    return {
        name: value
        for name, value in labels.items()
        if any(name.startswith(it[:-1]) if it.endswith("*") else name == it for it in patterns)
    }
