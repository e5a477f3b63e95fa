"""Ray clusters that KubeRay makes: found by themselves, followed while they live.

The custom resources are listed and watched by what the Kubernetes plugin watches with.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, Publish, ResourceKey, SourceReport
from almenara.signals import Resource, Signal
from almenara_kube.client import ApiClient, connect
from almenara_kube.kinds import WatchedKind
from almenara_kube.list_watch import Batch, Listing, Reflector, WatchStatus
from almenara_kube.objects import KubernetesObject, Malformed
from almenara_kube.settings import KubeContext
from almenara_ray.custom_resources import (
    RAY_CLUSTER,
    WATCHED,
    RayCluster,
    RayJob,
    RayService,
    cluster_signals,
    followed_name,
    gone,
    job_signals,
    service_signals,
)
from almenara_ray.dashboard import Dashboard
from almenara_ray.durations import Durations
from almenara_ray.following import Cluster
from almenara_ray.settings import KubeRaySettings, RaySettings
from almenara_ray.source import Following, load, told_of

DURATIONS: Final = "(durations)"
CLUSTERS: Final = 200
"""RayClusters that are followed at most."""


class Shelf:
    """What is remembered of clusters that come and go, as one value of the plugin's."""

    def __init__(self, context: Context, key: str) -> None:
        self._context, self._key = context, key
        self.data_dir = context.data_dir
        self._values: dict[str, bytes] = {}

    async def recall(self) -> None:
        """Read what an earlier run has kept."""
        stored = await self._context.load(self._key)
        with contextlib.suppress(msgspec.MsgspecError):
            self._values = msgspec.msgpack.decode(stored, type=dict[str, bytes]) if stored else {}

    async def load(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def save(self, key: str, value: bytes) -> None:
        self._values[key] = value
        await self._context.save(self._key, msgspec.msgpack.encode(self._values))

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        return await self._context.known_resources(source, kind)

    def names(self) -> list[str]:
        """The keys of what is kept."""
        return list(self._values)

    async def forget(self, key: str) -> None:
        """Keep a value no longer."""
        if self._values.pop(key, None) is not None:
            await self._context.save(self._key, msgspec.msgpack.encode(self._values))


class Quiet:
    """The report of one followed cluster: how it stands is on its own resource, and one of many
    that does not answer is no trouble of the source."""

    def __init__(self, report: SourceReport) -> None:
        self._report = report

    def degraded(self, reason: str) -> None: ...

    def recovered(self) -> None: ...

    def lag(self, messages: int) -> None: ...

    def rejected(self, count: int = 1) -> None:
        self._report.rejected(count)


class Followed:
    """A RayCluster that is followed."""

    def __init__(self, uid: str, service: str, following: Following, task: "asyncio.Task[None]"):
        self.uid, self.service, self.following, self.task = uid, service, following, task


class KubeRaySource:
    """Follows the RayClusters, RayJobs and RayServices of one Kubernetes cluster."""

    def __init__(self, asked: KubeRaySettings, settings: RaySettings, context: Context) -> None:
        self.name = asked.source
        self.asked, self.settings, self.context = asked, settings, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Follow until cancelled."""
        shelf = Shelf(self.context, self.name)
        await shelf.recall()
        api_server = KubeContext(self.asked.kubeconfig, self.asked.context)
        async with (
            connect(api_server) as connection,
            asyncio.TaskGroup() as group,
        ):
            watching = Watching(self, publish, report, shelf, group)
            await watching.recall()
            group.create_task(connection.monitor(watching.heard), name="probing")
            for watched in WATCHED:
                for namespace in self.asked.namespaces or [""]:
                    group.create_task(
                        watching.reflect(connection, watched, namespace),
                        name=f"watching {watched.plural}",
                    )


class Watching:
    """One run of a source."""

    def __init__(
        self,
        source: KubeRaySource,
        publish: Publish,
        report: SourceReport,
        shelf: Shelf,
        group: asyncio.TaskGroup,
    ) -> None:
        self.source, self.publish, self.report = source, publish, report
        self.shelf, self.group = shelf, group
        self.followed: dict[str, Followed] = {}
        self.there: dict[str, dict[tuple[str, str], KubernetesObject]] = {}
        self.durations = Durations()
        self._standings: dict[str, str] = {}
        self._beyond: dict[str, RayCluster] = {}
        """Clusters that wait for room to be followed."""
        self._unreachable = "it has not answered yet"

    async def recall(self) -> None:
        """Read how long entrypoints took on clusters that are gone."""
        stored = await self.shelf.load(DURATIONS)
        with contextlib.suppress(msgspec.MsgspecError):
            if stored:
                self.durations = msgspec.msgpack.decode(stored, type=Durations)

    # How it stands

    def heard(self, reason: str) -> None:
        """The API server does not answer, for this reason; or, without one, it does."""
        self._unreachable = reason
        self._tell()

    def _tell(self) -> None:
        reasons = [self._unreachable, *self._standings.values()]
        wrong = next((it for it in reasons if it), "")
        if wrong:
            self.report.degraded(f"KubeRay's resources cannot be watched: {wrong}")
        elif self._beyond:
            self.report.degraded(
                f"{len(self._beyond):,} RayClusters are beyond the {CLUSTERS} that are followed,"
                " and shown without their jobs; watch some namespaces with another Almenara"
            )
        else:
            self.report.recovered()

    async def reflect(self, connection: ApiClient, watched: WatchedKind, namespace: str) -> None:
        """List and watch one kind in one namespace, until cancelled."""

        async def accept(batch: Batch) -> None:
            await self._take(watched, namespace, batch)

        def told(standing: WatchStatus, reason: str) -> None:
            # Without KubeRay there is nothing to watch, which is no trouble.
            self._standings[f"{watched.plural}/{namespace}"] = (
                "" if standing in ("ok", "pending", "absent") else reason
            )
            self._tell()

        await Reflector(connection, watched, namespace, accept, told).run()

    # What there is

    async def _take(self, watched: WatchedKind, namespace: str, batch: Batch) -> None:
        known = self.there.setdefault(watched.kind, {})
        if isinstance(batch, Listing):
            listed = {(it.metadata.namespace, it.metadata.name): it for it in batch.objects}
            changes = [(it, False) for it in batch.objects]
            changes += [
                (it, True)
                for key, it in known.items()
                if key not in listed and namespace in ("", key[0])
            ]
        else:
            changes = list(batch.changes)
        for it, deleted in changes:
            if isinstance(it, Malformed):
                self.report.rejected()
                continue
            key = (it.metadata.namespace, it.metadata.name)
            if deleted:
                known.pop(key, None)
                await self._deleted(it, watched.kind)
            else:
                known[key] = it
                await self._changed(it)
        if isinstance(batch, Listing):
            await self._tell_of_vanished(watched.kind, namespace)
            if watched.kind == RAY_CLUSTER:
                await self._close_forgotten(namespace)

    async def _tell_of_vanished(self, kind: str, namespace: str) -> None:
        """Objects that were deleted while nobody looked."""
        there = self.there.get(kind, {})
        await self.publish(
            [
                Resource(kind=kind, namespace=of, name=name, deleted=True)
                for _, of, name in await self.shelf.known_resources(self.source.name, kind)
                if (of, name) not in there and namespace in ("", of)
            ]
        )

    async def _changed(self, it: KubernetesObject) -> None:
        source = self.source.name
        if isinstance(it, RayCluster):
            await self._follow(it)
            await self.publish(cluster_signals(it))
        elif isinstance(it, RayJob):
            followed = self.followed.get(
                followed_name(it.metadata.namespace, it.status.ray_cluster_name)
            )
            if followed is not None and it.ended:
                # Its cluster may go at any moment: what Ray knows of the end is read now.
                await followed.following.look_now()
            shape = followed.following.cluster.shape() if followed is not None else None
            await self.publish(job_signals(it, source, shape))
        elif isinstance(it, RayService):
            await self.publish(service_signals(it))

    async def _deleted(self, it: KubernetesObject, kind: str) -> None:
        if kind == RAY_CLUSTER:
            name = followed_name(it.metadata.namespace, it.metadata.name)
            if self._beyond.pop(name, None) is not None:
                self._tell()
            self._leave(name)
        await self.publish(gone(it, kind))

    async def _follow(self, it: RayCluster) -> None:
        name = followed_name(it.metadata.namespace, it.metadata.name)
        before = self.followed.get(name)
        if before is not None:
            if (before.uid, before.service) == (it.metadata.uid, it.service):
                return
            self._leave(name)
        waited = self._beyond.pop(name, None) is not None
        if it.answers and not it.metadata.deletion_timestamp:
            if len(self.followed) >= CLUSTERS:
                self._beyond[name] = it
            else:
                await self._begin(name, it)
        if waited or name in self._beyond:
            self._tell()

    async def _begin(self, name: str, it: RayCluster) -> None:
        asked, settings = self.source.asked, self.source.settings
        cluster = await self._cluster(name)
        key = (it.metadata.namespace, it.metadata.name)
        if it is not self.there.get(RAY_CLUSTER, {}).get(key) or name in self.followed:
            # It changed or went meanwhile, and that is seen to where it is told.
            return
        if len(self.followed) >= CLUSTERS:
            self._beyond[name] = it
            return
        place = asked.place(
            name, asked.dashboard.format(service=it.service, namespace=it.metadata.namespace)
        )
        cluster.known.address = place.url
        dashboard = Dashboard(place, settings)
        following = Following(
            cluster, dashboard, settings, self.publish, Quiet(self.report), self.shelf
        )
        task = self.group.create_task(self._run(following, dashboard), name=f"following {name}")
        self.followed[name] = Followed(it.metadata.uid, it.service, following, task)

    async def _cluster(self, name: str) -> Cluster:
        """A cluster as an earlier run has left it."""
        settings = self.source.settings
        known = await load(self.shelf, name)
        known.durations = self.durations
        cluster = Cluster(
            name, known, pending_after=settings.pending_after, finished=settings.finished
        )
        cluster.earlier = await told_of(self.shelf, self.source.name, name)
        return cluster

    async def _run(self, following: Following, dashboard: Dashboard) -> None:
        async with dashboard, asyncio.TaskGroup() as group:
            group.create_task(following.jobs())
            group.create_task(following.shape())

    def _leave(self, name: str) -> None:
        """End following a cluster that is no more, beside everything else: its head may hang."""
        followed = self.followed.pop(name, None)
        if followed is not None:
            self.group.create_task(self._finish(name, followed), name=f"leaving {name}")

    async def _finish(self, name: str, followed: Followed) -> None:
        await followed.following.finish(followed.task)
        await self._close(name, followed.following.cluster)
        while self._beyond and len(self.followed) < CLUSTERS:
            await self._follow(next(iter(self._beyond.values())))

    async def _close(self, name: str, cluster: Cluster) -> None:
        """Tell of what ended with a cluster, and keep nothing more of it."""
        lost = cluster.jobs.transitions([], ended="its RayCluster was deleted")
        signals: list[Signal] = cluster.told(lost)
        anew = name in self.followed
        await self.publish([*signals, *([] if anew else cluster.left())])
        await self.shelf.save(DURATIONS, msgspec.msgpack.encode(self.durations))
        if not anew:
            await self.shelf.forget(name)

    async def _close_forgotten(self, namespace: str) -> None:
        """Clusters that were deleted while nobody looked, of one namespace or of all."""
        there = {followed_name(*key) for key in self.there.get(RAY_CLUSTER, {})}
        for name in self.shelf.names():
            if name == DURATIONS or namespace not in ("", name.partition(".")[0]):
                continue
            if name not in there and name not in self.followed:
                await self._close(name, await self._cluster(name))
