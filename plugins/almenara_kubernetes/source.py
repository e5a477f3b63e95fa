"""The source of a cluster: a list-watch for each kind and namespace."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import every
from almenara.signals import Resource, Signal
from almenara_kube.client import ApiClient, connect
from almenara_kube.errors import ApiError, ProtocolError, UnreachableError
from almenara_kube.kinds import WatchedKind
from almenara_kube.list_watch import Batch, Listing, Reflector, WatchStatus, list_pages
from almenara_kube.objects import Malformed
from almenara_kubernetes.cluster_status import CLUSTER, ClusterStatus, cluster_name
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.granted_watches import GrantedWatches
from almenara_kubernetes.kinds import NAMESPACES, PODS
from almenara_kubernetes.outbox import Outbox
from almenara_kubernetes.pod_counts import PodCounts
from almenara_kubernetes.rbac import metrics_kinds
from almenara_kubernetes.settings import (
    PREFIX,
    ClusterSettings,
    KubernetesSettings,
    source_name,
    watched_kinds,
)

RATE_LIMIT: Final = 20_000.0
SAMPLED: Final = 100
"""Objects whose samples are published in one batch, so that changes wait for no more of them."""
TICK: Final = 60.0
COUNTED: Final = 15.0
"""Seconds between two counts of pods."""


class UsageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a request for usage."""

    status: WatchStatus
    reason: str = ""
    unmeasured: str | None = None
    """Why metrics are not served, empty where they are; None where that is unknown."""
    is_overloaded: bool = False
    """Whether to send no further request in this round."""


class ClusterSource:
    """Observes one cluster."""

    rate_limit = RATE_LIMIT

    def __init__(
        self, cluster: ClusterSettings, settings: KubernetesSettings, context: Context
    ) -> None:
        self.cluster, self.settings, self.context = cluster, settings, context
        self.name = source_name(cluster)

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled."""
        async with connect(self.cluster.kube_context, self.settings) as client:
            await ClusterWatch(self, client, publish, report).run()


class ClusterWatch:
    """One run of a source: the watches of its kinds, and the requests for usage."""

    def __init__(
        self, source: ClusterSource, client: ApiClient, publish: Publish, report: SourceReport
    ) -> None:
        self.cluster, self.settings = source.cluster, source.settings
        self.context, self.name = source.context, source.name
        self.client, self.report = client, report
        self.outbox, self.differ = Outbox(publish), ClusterDiffer(source.cluster.name)
        self.status = ClusterStatus(source.cluster, source.settings, client, self.outbox, report)
        self.reflectors: dict[tuple[str, str], Reflector] = {}
        self._kinds = watched_kinds(source.settings, source.cluster)
        self._granted = GrantedWatches(self, [f"{PREFIX}{kind}" for kind in source.settings.kinds])

    async def run(self) -> None:
        """Observe until cancelled."""
        await self._restore()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.outbox.run(), name="publishing")
            group.create_task(self.client.monitor(self.status.note_reachable), name="probing")
            for kind in metrics_kinds(self.settings, self.cluster):
                group.create_task(self._poll_usage(kind), name=f"usage of {kind.kind}")
            for kind in self._kinds:
                if not kind.namespaced:
                    self.start(group, kind, "")
            if self.cluster.namespace_selector:
                group.create_task(self._watch_namespaces(group), name="watching namespaces")
                namespaces: Sequence[str] = ()
            else:
                namespaces = self.cluster.namespaces or ("",)
            if self.cluster.everywhere:
                group.create_task(self._granted.run(group), name="finding namespaces")
            for kind in self._kinds:
                if kind.namespaced:
                    for namespace in namespaces:
                        self.start(group, kind, namespace)
            group.create_task(self.status.run(), name="publishing the status")
            group.create_task(self._tick(), name="ticking")
            group.create_task(self._count_pods(), name="counting pods")

    # Watches

    def start(
        self, group: asyncio.TaskGroup, kind: WatchedKind, namespace: str
    ) -> "asyncio.Task[None]":
        """Start the watch of a kind in a namespace."""
        # Pending from the start, so that nothing counts as healthy before it is listed.
        self.status.note_watch((kind.kind, namespace), kind, "pending", "")
        return group.create_task(
            self._reflect(kind, namespace), name=f"watching {kind.plural} {namespace}".strip()
        )

    async def _reflect(self, kind: WatchedKind, namespace: str) -> None:
        part = kind.kind, namespace

        async def accept(batch: Batch) -> None:
            await self.accept(kind, namespace, batch)

        def on_status(status: WatchStatus, reason: str) -> None:
            if status in ("forbidden", "absent"):
                self.outbox.put(self.differ.stop_watching(kind, namespace))
            if namespace or not self.cluster.everywhere:
                self.status.note_watch(part, kind, status, reason)
            else:
                self._note_everywhere(kind, status, reason)

        reflector = Reflector(self.client, kind, namespace, accept, on_status)
        self.reflectors[part] = reflector
        try:
            await reflector.run()
        finally:
            del self.reflectors[part]

    def _note_everywhere(self, kind: WatchedKind, status: WatchStatus, reason: str) -> None:
        if self._granted.accept_status(kind, status):
            self.status.note_watch((kind.kind, ""), kind, status, reason)
        else:
            self.status.forget_watch((kind.kind, ""))

    async def accept(self, kind: WatchedKind, namespace: str, batch: Batch) -> None:
        """Publish a batch of a kind in a namespace."""
        signals: list[Signal] = []
        if isinstance(batch, Listing):
            objects = list(batch.objects)
            signals += self.differ.replace_all(
                kind, namespace, objects, is_watched=batch.is_watched
            )
        else:
            objects = [obj for obj, _ in batch.changes]
            for obj, is_deleted in batch.changes:
                change = self.differ.remove if is_deleted else self.differ.update
                signals += change(kind, obj)
        if malformed := sum(isinstance(obj, Malformed) for obj in objects):
            self.report.rejected(malformed)
        await self.outbox.add(signals)

    async def _watch_namespaces(self, group: asyncio.TaskGroup) -> None:
        """Watch the namespaces that have the labels, as they come and go."""
        selection = NamespaceSelection(self, group)

        def on_status(status: WatchStatus, reason: str) -> None:
            self.status.note_watch((NAMESPACES.kind, ""), NAMESPACES, status, reason)

        await Reflector(
            self.client, NAMESPACES, "", selection.accept, on_status,
            selector=self.cluster.namespace_selector, metadata_only=True,
        ).run()  # fmt: skip

    # Usage

    async def _poll_usage(self, kind: WatchedKind) -> None:
        """Request usage at intervals, where the cluster measures it."""
        async for _ in every(self.settings.usage_every):
            await self.client.wait_until_reachable()
            for namespace in self._namespaces(kind) if kind.namespaced else [""]:
                answer = await self._request_usage(kind, namespace)
                if kind.namespaced and namespace not in self._namespaces(kind):
                    # It has lost its labels meanwhile, and nothing about it is reported any more.
                    continue
                part = f"{kind.kind}.usage", namespace
                if answer.status == "forbidden" and self._granted.covers(kind):
                    # What it measures is not watched either.
                    self.status.forget_watch(part)
                else:
                    self.status.note_watch(part, kind, answer.status, answer.reason)
                if answer.unmeasured is not None:
                    self.status.note_usage((kind.kind, namespace), answer.unmeasured)
                if answer.is_overloaded:
                    break

    async def _request_usage(self, kind: WatchedKind, namespace: str) -> UsageAnswer:
        """Publish what is used in a namespace; return how that went."""
        try:
            objects, _ = await list_pages(self.client, kind, namespace, limit=self.settings.page)
        except ApiError as error:
            # Without a metrics server the API is absent, or answers 503.
            return UsageAnswer(
                status="forbidden" if error.status == 403 else "absent",
                reason=str(error),
                unmeasured=f"{kind.path} answers {error.status}: {error}",
                is_overloaded=error.status == 429,
            )
        except (UnreachableError, ProtocolError) as error:
            return UsageAnswer(status="failing", reason=f"{kind.plural}: {error}")
        for start in range(0, len(objects), SAMPLED):
            part = objects[start : start + SAMPLED]
            await self.outbox.add_samples(self.differ.usage(kind, part))
        return UsageAnswer(status="ok", unmeasured="")

    def _namespaces(self, kind: WatchedKind) -> list[str]:
        if self.cluster.everywhere:
            return self._granted.namespaces(kind.kind) or [""]
        if self.cluster.namespaces:
            return self.cluster.namespaces
        return sorted({namespace for _, namespace in self.reflectors if namespace})

    async def _tick(self) -> None:
        async for _ in every(TICK):
            await self.outbox.add(self.differ.tick())

    async def _count_pods(self) -> None:
        counts = PodCounts()
        async for _ in every(COUNTED):
            # What is not watched at the moment has no count.
            if self.status.is_known(PODS.kind):
                await self.outbox.add_samples(counts.sample(self.differ.pods()))

    async def _restore(self) -> None:
        """Restore what earlier runs published, so that what was deleted since is published so."""
        kinds = {kind.kind for kind in self._kinds}
        prefix = f"{self.cluster.name}/" if self.cluster.name else ""
        kept, dropped = list[Resource](), list[Resource]()
        for kind, namespace, name in await self.context.known_resources(self.name):
            if (kind, name) == (CLUSTER, cluster_name(self.cluster)):
                # Published again at once, with its present status.
                continue
            # Resources without a namespace are in that of their cluster.
            inside = "" if namespace == self.cluster.name else namespace.removeprefix(prefix)
            is_selected = not self.cluster.namespaces or inside in ("", *self.cluster.namespaces)
            is_watched = kind in kinds and is_selected
            resource = Resource(kind=kind, namespace=namespace, name=name, deleted=not is_watched)
            (kept if is_watched else dropped).append(resource)
        self.differ.restore(kept)
        # The configuration selects these no longer; and missing permissions are published again.
        await self.outbox.add(dropped)


class NamespaceSelection:
    """The namespaces that match the selector: their watches start and end with their labels."""

    def __init__(self, watch: ClusterWatch, group: asyncio.TaskGroup) -> None:
        self.watch, self.group = watch, group
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._kinds = [
            kind for kind in watched_kinds(watch.settings, watch.cluster) if kind.namespaced
        ]

    async def accept(self, batch: Batch) -> None:
        """Follow a batch of the watch of namespaces."""
        if not isinstance(batch, Listing):
            for namespace, is_deleted in batch.changes:
                name = namespace.metadata.name
                await (self._leave(name) if is_deleted else self._enter(name))
            return
        names = [namespace.metadata.name for namespace in batch.objects]
        for name in [name for name in self._tasks if name not in names]:
            await self._leave(name)
        # Those that an earlier run watched, and that have lost their labels since.
        for name in self.watch.differ.namespaces() - set(names) - set(self._tasks):
            await self._clear(name)
        for name in names:
            await self._enter(name)

    async def _enter(self, name: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = [self.watch.start(self.group, kind, name) for kind in self._kinds]

    async def _leave(self, name: str) -> None:
        tasks = self._tasks.pop(name, None)
        if tasks is None:
            return
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        status = self.watch.status
        for kind in self._kinds:
            status.forget_watch((kind.kind, name))
        for kind in metrics_kinds(self.watch.settings, self.watch.cluster):
            status.forget_watch((f"{kind.kind}.usage", name))
            status.note_usage((kind.kind, name), "")
        await self._clear(name)

    async def _clear(self, name: str) -> None:
        """Publish everything in a namespace as deleted."""
        # Last those that others depend on, so that nothing is published as unknown in between.
        for kind in reversed(self._kinds):
            await self.watch.accept(kind, name, Listing((), is_watched=False))
