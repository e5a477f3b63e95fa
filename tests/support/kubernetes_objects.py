"""Objects of Kubernetes, decoded, and the signals that they become."""

from collections.abc import Sequence
from typing import Any

import msgspec

from almenara.signals import Event, Resource, Signal
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.kinds import (
    PODS,
)

DAY = 86_400_000_000


def make_object(watched: WatchedKind, name: str = "it", **parts: Any) -> Any:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", **parts.pop("meta", {})}
    return watched.decode(msgspec.json.encode({"metadata": metadata, **parts}))


def pod(*containers: Any, phase: str = "Running", conditions: Any = (), **parts: Any) -> Any:
    return make_object(
        PODS,
        spec={"containers": [{"name": one["name"], "image": "a/b:1.2"} for one in containers]},
        status={"phase": phase, "containerStatuses": containers, "conditions": list(conditions)},
        **parts,
    )


def events(signals: Sequence[Signal]) -> dict[str, Event]:
    return {one.type: one for one in signals if isinstance(one, Event)}


def resources(signals: Sequence[Signal]) -> list[Resource]:
    return [one for one in signals if isinstance(one, Resource)]


def owned_by(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"ownerReferences": [{"kind": kind, "name": name, "uid": uid, "controller": True}]}
