"""The published resources of one cluster, and what they become when a part cannot be read."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, ResourceKey
from almenara.sdk import Snapshots, now
from almenara.signals import STALE_SINCE, UNKNOWN, Resource, Severity, Signal
from almenara_ray.kinds import APPLICATION, CLUSTER, JOB, NODE
from almenara_ray.models import UNFINISHED

PARTS: Final = (JOB, NODE, APPLICATION)
"""Kinds of resources that are read from the cluster itself."""


class PublishedResources:
    """Compares each answer with what was published before, by kind."""

    def __init__(self) -> None:
        self._snapshots = {kind: Snapshots() for kind in (*PARTS, CLUSTER)}
        self._resources: dict[str, Sequence[Resource]] = {}
        """The last known resources, by kind."""
        self._restored: dict[str, Sequence[Resource]] = {}
        """What earlier runs have published and may have claimed to be healthy, by kind."""
        self._known_at: dict[str, int] = {}

    async def restore(self, context: Context, source: str, cluster: str = "") -> None:
        """Load which resources earlier runs of a source have published, so that those which no
        longer exist are deleted; with `cluster` only those of this one of the source's clusters."""
        own = _ClusterResources(context, cluster) if cluster else context
        for kind, snapshots in self._snapshots.items():
            await snapshots.restore(own, source, [kind])
        for kind in (NODE, APPLICATION):
            self._restored[kind] = [
                Resource(kind=kind, namespace=namespace, name=name)
                for _, namespace, name in await own.known_resources(source, kind)
            ]

    def restore_jobs(self, jobs: Sequence[Resource]) -> None:
        """Set the unfinished jobs of earlier runs."""
        self._restored[JOB] = jobs

    def update(self, kind: str, resources: Sequence[Resource]) -> Sequence[Signal]:
        """Replace the resources of a kind, and return what changed."""
        self._resources[kind], self._known_at[kind] = resources, now()
        return self._snapshots[kind].difference(resources)

    def mark_unknown(self, kind: str, reason: str) -> Sequence[Signal]:
        """Return the resources of a kind as unknown, where that is new: what they were before is no
        proof of what they are. Jobs that have ended stay as they are."""
        hide, snapshots = _make_unknown(reason, self._known_at.get(kind)), self._snapshots[kind]
        if kind in self._resources:
            return snapshots.difference([hide(item) for item in self._resources[kind]])
        # Nothing was read yet: what else earlier runs have published is left alone.
        restored = self._restored.get(kind, ())
        return [signal for item in restored for signal in snapshots.update(hide(item))]

    def known_at(self, kind: str) -> int:
        """Return when the resources of a kind were last known, in microseconds since the epoch."""
        return self._known_at.get(kind, 0)

    def delete_all(self) -> list[Signal]:
        """Return the deletion of everything that was published."""
        return [
            signal for snapshots in self._snapshots.values() for signal in snapshots.difference([])
        ]


def _make_unknown(reason: str, since: int | None) -> Callable[[Resource], Resource]:
    def hide(resource: Resource) -> Resource:
        if resource.kind == JOB and resource.status not in UNFINISHED:
            return resource
        state = {"last_status": resource.status, STALE_SINCE: since, "stale_reason": reason}
        state = {name: value for name, value in state.items() if value}
        return msgspec.structs.replace(
            resource, status=UNKNOWN, severity=Severity.WARN, state={**resource.state, **state}
        )

    return hide


class _ClusterResources:
    """A `Context` that knows only the resources of one of a source's clusters."""

    def __init__(self, context: Context, cluster: str) -> None:
        self._context, self._cluster = context, cluster
        self.data_dir = context.data_dir
        self.load, self.save = context.load, context.save

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        # A cluster is a resource without a namespace; all others are in that of their cluster.
        position = 2 if kind == CLUSTER else 1
        known = await self._context.known_resources(source, kind)
        return [key for key in known if key[position] == self._cluster]
