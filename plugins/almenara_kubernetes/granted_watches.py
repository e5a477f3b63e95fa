"""Watches in single namespaces of kinds that RBAC forbids to watch in the whole cluster."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from almenara.sdk import monotonic
from almenara_kube.client import ApiClient
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.granted_namespaces import ResourceRule, permits, review_namespaces
from almenara_kube.kinds import WatchedKind
from almenara_kube.list_watch import Batch, Listing, WatchStatus
from almenara_kubernetes.cluster_status import ClusterStatus


class Watch(Protocol):
    """The run of a source that the watches are part of."""

    client: ApiClient
    status: ClusterStatus

    def start(
        self, group: asyncio.TaskGroup, kind: WatchedKind, namespace: str
    ) -> "asyncio.Task[None]": ...

    async def accept(self, kind: WatchedKind, namespace: str, batch: Batch) -> None: ...


class GrantedWatches:
    """Finds the namespaces where a Role permits what no ClusterRole does, and watches them.

    The watches of the whole cluster are retried beside them. Once one is permitted, it replaces
    those of the namespaces.
    """

    def __init__(self, watch: Watch, explicit: Sequence[str]) -> None:
        self._watch = watch
        self._explicit = frozenset(explicit)
        """Kinds that the settings name: that they are forbidden is a problem in any case."""
        self._forbidden: dict[str, WatchedKind] = {}
        self._tasks: dict[str, dict[str, asyncio.Task[None]]] = {}
        """The watches by kind and namespace."""
        self._is_due = asyncio.Event()
        self._rules: Mapping[str, Sequence[ResourceRule]] = {}
        self._reviewed_at = float("-inf")

    def namespaces(self, kind: str) -> list[str]:
        """The namespaces in which a kind is watched; empty where it is watched in all."""
        return sorted(self._tasks.get(kind, ()))

    def accept_status(self, kind: WatchedKind, status: WatchStatus) -> bool:
        """Note the status of a watch of the whole cluster. Return whether RBAC that forbids it is a
        problem. It is no problem for a kind that is watched in namespaces, and beside such kinds,
        for one without namespaces that no setting names."""
        if status != "forbidden":
            if self._forbidden.pop(kind.kind, None) is not None and self._tasks.get(kind.kind):
                self._is_due.set()
            return True
        self._forbidden[kind.kind] = kind
        self._is_due.set()
        return not self.covers(kind)

    def covers(self, kind: WatchedKind) -> bool:
        """Whether it is no problem that RBAC forbids to watch a kind in the whole cluster."""
        if kind.namespaced:
            return bool(self._tasks.get(kind.kind))
        return kind.kind not in self._explicit and any(self._tasks.values())

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Find and watch until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            for name in [name for name in self._tasks if name not in self._forbidden]:
                await self._stop(name, set())
            kinds = [kind for kind in self._forbidden.values() if kind.namespaced]
            # A server that does not answer is reported by the watches.
            with contextlib.suppress(ApiError, UnreachableError):
                rules = await self._read_rules()
                for kind in kinds:
                    granted = [name for name, own in rules.items() if permits(own, kind)]
                    if kind.kind in self._forbidden:
                        await self._watch_in(group, kind, granted)
            for kind in self._forbidden.values():
                if self.covers(kind):
                    self._watch.status.forget_watch((kind.kind, ""))

    async def _read_rules(self) -> Mapping[str, Sequence[ResourceRule]]:
        """The rules by namespace; the kinds that are refused one after another share them."""
        client = self._watch.client
        if monotonic() - self._reviewed_at > client.settings.refused_every / 2:
            self._rules = await review_namespaces(client)
            self._reviewed_at = monotonic()
        return self._rules

    async def _watch_in(
        self, group: asyncio.TaskGroup, kind: WatchedKind, namespaces: Sequence[str]
    ) -> None:
        running = self._tasks.setdefault(kind.kind, {})
        for namespace in await self._stop(kind.kind, set(namespaces)):
            # What was published of it is not known any more.
            await self._watch.accept(kind, namespace, Listing((), is_watched=False))
        for namespace in namespaces:
            if namespace not in running:
                running[namespace] = self._watch.start(group, kind, namespace)

    async def _stop(self, kind: str, kept: set[str]) -> list[str]:
        """End the watches of a kind except in the namespaces to keep; return where they ended."""
        running = self._tasks.get(kind, {})
        ended = [namespace for namespace in running if namespace not in kept]
        tasks = [running.pop(namespace) for namespace in ended]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for namespace in ended:
            self._watch.status.forget_watch((kind, namespace))
        return ended
