"""Ray clusters of KubeRay: discovered through their custom resources, followed while they exist and
are not suspended."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from almenara.config import Secret
from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import Backoff, HealthAggregator, sleep
from almenara.signals import Resource
from almenara_kube.client import ApiClient, connect
from almenara_kube.kinds import WatchedKind
from almenara_kube.list_watch import Batch, Listing, Reflector, WatchStatus
from almenara_kube.objects import KubernetesObject, Malformed
from almenara_ray.client import DashboardClient
from almenara_ray.cluster_state import ClusterState
from almenara_ray.cluster_state_store import ClusterStateStore, load_state
from almenara_ray.cluster_tokens import read_token
from almenara_ray.durations import Durations
from almenara_ray.errors import DashboardError
from almenara_ray.kinds import RAY_CLUSTER
from almenara_ray.kuberay_mapping import (
    cluster_name,
    cluster_signals,
    cron_job_signals,
    deletion_signals,
    is_new_end,
    job_signals,
    service_signals,
)
from almenara_ray.kuberay_models import WATCHED, RayCluster, RayCronJob, RayJob, RayService
from almenara_ray.kuberay_phases import STORE_KEY, PhaseLog, phase_key
from almenara_ray.kuberay_resources import CustomResources
from almenara_ray.poller import ClusterPoller
from almenara_ray.settings import KubeRaySettings, RaySettings

DURATIONS: Final = "(durations)"
"""Key of the durations, which outlive the clusters they were measured on."""
CLUSTER_LIMIT: Final = 200
"""RayClusters that are followed at most."""
FIRST_RETRY: Final = 5.0
LONGEST_RETRY: Final = 60.0
API_SERVER: Final = "API server"
UPDATE_LIMIT: Final = 5.0
"""Seconds that the watch waits for the job list of a cluster whose RayJob has ended."""
LIMIT: Final = "limit"
DELETED: Final = "its RayCluster was deleted"
SUSPENDED: Final = "its RayCluster was suspended"
ReadToken = Callable[[], Awaitable[Secret]]


class NullReport:
    """The report of one discovered cluster.

    The cluster's own resource shows its health; one of many that does not answer does not degrade
    the source.
    """

    def __init__(self, report: SourceReport) -> None:
        self._report = report

    def degraded(self, reason: str) -> None: ...

    def recovered(self) -> None: ...

    def lag(self, messages: int) -> None: ...

    def rejected(self, count: int = 1) -> None:
        self._report.rejected(count)


class FollowedCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A RayCluster whose dashboard is polled."""

    uid: str
    service: str
    token_secret: str
    poller: ClusterPoller
    task: "asyncio.Task[None]"


class KubeRaySource:
    """Follows the RayClusters, RayJobs and RayServices of one Kubernetes cluster."""

    def __init__(self, kuberay: KubeRaySettings, settings: RaySettings, context: Context) -> None:
        self.name = kuberay.source
        self.kuberay, self.settings, self.context = kuberay, settings, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Follow them until cancelled."""
        store = ClusterStateStore(self.context, self.name)
        await store.restore()
        async with connect(self.kuberay.kube_context) as api, asyncio.TaskGroup() as group:
            health = HealthAggregator(report)
            followers = ClusterFollowers(self, publish, report, health, store, group, api)
            await followers.restore()
            resources = CustomResources(publish, followers.mark_unknown)
            await resources.restore(store, self.name)
            watcher = ResourceWatcher(self, resources, report, health, store, followers)
            await watcher.phases.restore(store)
            group.create_task(resources.follow_api_server(), name="silence of the API server")
            group.create_task(api.monitor(watcher.note_api_server), name="API server probe")
            for kind in WATCHED:
                for namespace in self.kuberay.namespaces or [""]:
                    group.create_task(
                        watcher.watch(api, kind, namespace),
                        name=f"watch of {kind.plural}",
                    )


class ClusterFollowers:
    """The pollers of the RayClusters that exist."""

    def __init__(
        self,
        source: KubeRaySource,
        publish: Publish,
        report: SourceReport,
        health: HealthAggregator,
        store: ClusterStateStore,
        group: asyncio.TaskGroup,
        api: ApiClient,
    ) -> None:
        self.source, self.publish, self.report = source, publish, report
        self.health, self.store, self.group, self.api = health, store, group, api
        self.followed: dict[str, FollowedCluster] = {}
        self.durations = Durations()
        self._current: dict[str, RayCluster] = {}
        """The RayClusters that exist, by the name of their cluster."""
        self._closing: set[str] = set()
        """Clusters that are polled a last time."""
        self._waiting: dict[str, RayCluster] = {}
        """Clusters beyond `CLUSTER_LIMIT`."""

    async def restore(self) -> None:
        """Read how long entrypoints took on clusters that no longer exist."""
        stored = await self.store.load(DURATIONS)
        with contextlib.suppress(msgspec.MsgspecError):
            if stored:
                self.durations = msgspec.msgpack.decode(stored, type=Durations)

    def poller(self, name: str) -> ClusterPoller | None:
        """Return the poller of a cluster; None while it is not followed."""
        followed = self.followed.get(name)
        return followed.poller if followed is not None else None

    async def update(self, raycluster: RayCluster) -> None:
        """Start to follow a RayCluster once its head may answer; restart where the head's service
        is another one, and stop while it is suspended."""
        metadata = raycluster.metadata
        name = cluster_name(metadata.namespace, metadata.name)
        self._current[name] = raycluster
        followed = self.followed.get(name)
        if followed is not None:
            known = followed.uid, followed.service, followed.token_secret
            same = known == (metadata.uid, raycluster.head_service, raycluster.token_secret)
            if same and not raycluster.is_suspended:
                return
            self._stop(name, SUSPENDED if same else DELETED)
        elif raycluster.is_suspended and name not in self._closing and self.store.has(name):
            # It was suspended while Almenara did not run.
            await self._close(name, await self._load(name), SUSPENDED)
        self._waiting.pop(name, None)
        if raycluster.may_answer and not metadata.deletion_timestamp:
            if len(self.followed) >= CLUSTER_LIMIT:
                self._waiting[name] = raycluster
            else:
                await self._start(name, raycluster)
        self._note_limit()

    def remove(self, raycluster: KubernetesObject) -> None:
        """Stop following a RayCluster that was deleted."""
        name = cluster_name(raycluster.metadata.namespace, raycluster.metadata.name)
        self._current.pop(name, None)
        self._waiting.pop(name, None)
        self._note_limit()
        self._stop(name, DELETED)

    async def mark_unknown(self, reason: str) -> None:
        """Publish clusters of an earlier run as unknown, which no one follows until the API server
        answers."""
        for name in self.store.list_keys():
            if name not in (DURATIONS, STORE_KEY, *self.followed):
                state = await self._load(name)
                await self.publish(state.record_failure(reason))

    async def close_deleted(self, namespace: str) -> None:
        """Close the clusters that were deleted while Almenara did not run, in one namespace or, for
        an empty name, in all."""
        for name in self.store.list_keys():
            if name in (DURATIONS, STORE_KEY) or namespace not in ("", name.partition(".")[0]):
                continue
            if name not in self._current and name not in self.followed:
                await self._close(name, await self._load(name), DELETED)

    async def _start(self, name: str, raycluster: RayCluster) -> None:
        kuberay, settings = self.source.kuberay, self.source.settings
        state = await self._load(name)
        if raycluster is not self._current.get(name) or name in self.followed:
            # It changed or was deleted during the load, and that change is handled on its own.
            return
        if len(self.followed) >= CLUSTER_LIMIT:
            self._waiting[name] = raycluster
            return
        address = kuberay.dashboard.format(
            service=raycluster.head_service, namespace=raycluster.metadata.namespace
        )
        secret = raycluster.token_secret
        state.saved.address, state.saved.token_secret = address, secret
        client = DashboardClient(kuberay.cluster_settings(name, address), settings)
        client.denied_hint = _describe_denial(raycluster, kuberay)
        read = self._read_token(raycluster) if secret and kuberay.cluster_tokens else None
        report = NullReport(self.report)
        poller = ClusterPoller(state, client, settings, self.publish, report, self.store)
        task = self.group.create_task(_poll(poller, client, read), name=f"cluster {name}")
        self.followed[name] = FollowedCluster(
            uid=raycluster.metadata.uid, service=raycluster.head_service, token_secret=secret,
            poller=poller, task=task,
        )  # fmt: skip

    def _read_token(self, raycluster: RayCluster) -> ReadToken:
        namespace, secret = raycluster.metadata.namespace, raycluster.token_secret
        return lambda: read_token(self.api, namespace, secret)

    async def _load(self, name: str) -> ClusterState:
        """Return a cluster as an earlier run has left it."""
        settings = self.source.settings
        saved = await load_state(self.store, name)
        saved.durations = self.durations
        state = ClusterState(
            name, saved,
            pending_after=settings.pending_after, finished_limit=settings.finished_limit,
        )  # fmt: skip
        await state.restore(self.store, self.source.name, is_shared=True)
        return state

    def _stop(self, name: str, reason: str) -> None:
        """Stop following a cluster, in a task of its own: its head may hang."""
        followed = self.followed.pop(name, None)
        if followed is not None:
            self._closing.add(name)
            self.group.create_task(self._finish(name, followed, reason), name=f"end of {name}")

    async def _finish(self, name: str, followed: FollowedCluster, reason: str) -> None:
        await followed.poller.finish(followed.task)
        await self._close(name, followed.poller.cluster, reason)
        self._closing.discard(name)
        while self._waiting and len(self.followed) < CLUSTER_LIMIT:
            await self.update(next(iter(self._waiting.values())))

    async def _close(self, name: str, state: ClusterState, reason: str) -> None:
        """Publish what ended with a cluster, and delete what is stored of it."""
        signals = state.job_signals(state.jobs.update([], closed=reason))
        # A cluster of the same name may have been created meanwhile.
        is_recreated = name in self.followed
        await self.publish([*signals, *([] if is_recreated else state.delete_resources())])
        await self.store.save(DURATIONS, msgspec.msgpack.encode(self.durations))
        if not is_recreated:
            await self.store.delete(name)

    def _note_limit(self) -> None:
        self.health.note(
            LIMIT,
            f"{len(self._waiting):,} RayClusters exceed the limit of {CLUSTER_LIMIT} and are shown"
            " without their jobs; watch fewer `namespaces` here, and the others with a second"
            " Almenara"
            if self._waiting
            else "",
        )


async def _poll(poller: ClusterPoller, client: DashboardClient, read: ReadToken | None) -> None:
    backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
    while True:
        try:
            if read is not None:
                await _renew_token(client, read)
            async with client, asyncio.TaskGroup() as group:
                group.create_task(poller.poll_jobs())
                group.create_task(poller.poll_cluster())
                if read is not None:
                    group.create_task(_replace_refused_tokens(client, read))
        except DashboardError as error:
            # The file `ca` or the token cannot be read, which must not end the source of all
            # clusters.
            await poller.publish(poller.cluster.record_failure(str(error)))
            await sleep(backoff.failed())


async def _renew_token(client: DashboardClient, read: ReadToken) -> None:
    client.cluster = msgspec.structs.replace(client.cluster, token=await read())


async def _replace_refused_tokens(client: DashboardClient, read: ReadToken) -> None:
    """Read the token again when the dashboard refuses it: a RayCluster that is created again has
    another one."""
    while True:
        await client.was_denied.wait()
        # What cannot be read is tried again after the next refusal.
        with contextlib.suppress(DashboardError):
            await _renew_token(client, read)
        client.was_denied.clear()
        await sleep(FIRST_RETRY)


def _describe_denial(raycluster: RayCluster, kuberay: KubeRaySettings) -> str:
    """What to do where the dashboard of a RayCluster refuses the token."""
    if raycluster.spec.auth_options.enable_k8s_token_auth:
        return (
            "; the RayCluster accepts tokens of Kubernetes users only: set token of"
            " plugins.ray.kuberay to one of a user with access to RayClusters"
        )
    if raycluster.token_secret and not kuberay.cluster_tokens and kuberay.token is None:
        return (
            "; the RayCluster has a token of its own: set cluster_tokens of plugins.ray.kuberay to"
            " true, and grant what `almenara kubernetes rbac` prints"
        )
    return ""


class ResourceWatcher:
    """Watches the custom resources, and publishes them."""

    def __init__(
        self,
        source: KubeRaySource,
        resources: CustomResources,
        report: SourceReport,
        health: HealthAggregator,
        store: ClusterStateStore,
        followers: ClusterFollowers,
    ) -> None:
        self.source, self.resources, self.report = source, resources, report
        self.publish = resources.publish
        self.health, self.store, self.followers = health, store, followers
        self.phases = PhaseLog()
        self._objects: dict[str, dict[tuple[str, str], KubernetesObject]] = {}
        """The objects that exist, by kind, and by namespace and name."""

    def note_api_server(self, reason: str) -> None:
        """Note why the API server does not answer; an empty reason when it does."""
        self._note(API_SERVER, reason)
        self.resources.note_api_server(reason)

    def _note(self, part: str, reason: str) -> None:
        self.health.note(part, f"KubeRay's resources cannot be watched: {reason}" if reason else "")

    async def watch(self, api: ApiClient, kind: WatchedKind, namespace: str) -> None:
        """List and watch one kind in one namespace, until cancelled."""

        async def accept(batch: Batch) -> None:
            await self._accept(kind.kind, namespace, batch)

        def note(status: WatchStatus, reason: str) -> None:
            # A cluster without KubeRay has nothing to watch, which is not a failure.
            is_healthy = status in ("ok", "pending", "absent")
            self._note(f"{kind.plural}/{namespace}", "" if is_healthy else reason)

        await Reflector(api, kind, namespace, accept, note).run()

    async def _accept(self, kind: str, namespace: str, batch: Batch) -> None:
        known = self._objects.setdefault(kind, {})
        if isinstance(batch, Listing):
            listed = {_key(item) for item in batch.objects}
            changes = [(item, False) for item in batch.objects]
            changes += [
                (item, True)
                for key, item in known.items()
                if key not in listed and namespace in ("", key[0])
            ]
        else:
            changes = list(batch.changes)
        for item, is_deleted in changes:
            if isinstance(item, Malformed):
                self.report.rejected()
            elif is_deleted:
                known.pop(_key(item), None)
                await self._handle_deletion(item, kind)
            else:
                known[_key(item)] = item
                await self._handle_change(item)
        if isinstance(batch, Listing):
            await self._delete_vanished(kind, namespace)
            keys = {phase_key(kind, item.metadata) for item in known.values()}
            self.phases.keep_only(kind, namespace, keys)
            if kind == RAY_CLUSTER:
                await self.followers.close_deleted(namespace)
        await self.phases.save(self.store)

    async def _delete_vanished(self, kind: str, namespace: str) -> None:
        """Publish the deletion of objects that were deleted while Almenara did not run."""
        known = self._objects.get(kind, {})
        await self.publish(
            [
                Resource(kind=kind, namespace=where, name=name, deleted=True)
                for _, where, name in await self.store.known_resources(self.source.name, kind)
                if (where, name) not in known and namespace in ("", where)
            ]
        )

    async def _handle_change(self, item: KubernetesObject) -> None:
        source, phases = self.source.name, self.phases
        if isinstance(item, RayCluster):
            await self.followers.update(item)
            await self.publish(cluster_signals(item, source, phases))
        elif isinstance(item, RayJob):
            await self._handle_job(item)
        elif isinstance(item, RayService):
            await self.publish(service_signals(item, source, phases))
        elif isinstance(item, RayCronJob):
            await self.publish(cron_job_signals(item, source, phases))

    async def _handle_job(self, job: RayJob) -> None:
        name = cluster_name(job.metadata.namespace, job.status.ray_cluster_name)
        poller = self.followers.poller(name)
        if poller is not None and is_new_end(job, self.phases):
            # Its cluster may be deleted at any moment: read now how the job ended. A head that
            # hangs keeps the watch no longer than this, and is read to the end nevertheless.
            update = self.followers.group.create_task(poller.update_now(), name=f"end in {name}")
            await asyncio.wait([update], timeout=UPDATE_LIMIT)
        snapshot = poller.cluster.snapshot() if poller is not None else None
        await self.publish(job_signals(job, self.source.name, self.phases, snapshot))

    async def _handle_deletion(self, item: KubernetesObject, kind: str) -> None:
        if kind == RAY_CLUSTER:
            self.followers.remove(item)
        await self.publish(deletion_signals(item, kind))
        self.phases.forget(phase_key(kind, item.metadata))


def _key(item: KubernetesObject) -> tuple[str, str]:
    return item.metadata.namespace, item.metadata.name
