"""The source: one for each cluster, made of a reflector for each kind and namespace."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import every, now
from almenara.signals import Resource, Severity, Signal
from almenara_kube.client import ApiClient, connect
from almenara_kube.errors import ApiError, ProtocolError, UnreachableError
from almenara_kube.kinds import WatchedKind
from almenara_kube.list_watch import Batch, Listing, Reflector, WatchStatus, list_pages
from almenara_kube.objects import KubernetesObject, Malformed
from almenara_kubernetes.rbac import measured_kinds, missing
from almenara_kubernetes.reading import Reading
from almenara_kubernetes.settings import (
    ClusterSettings,
    KubernetesSettings,
    source_name,
    watched_kinds,
)

RATE: Final = 20_000.0
WAITING: Final = 10_000
"""Signals that wait for the bus before the watches are read no further."""
BATCH: Final = 2_000
MEASURED: Final = 100
"""Objects whose use is told in one batch: what changes waits for no more of them than these."""
TICK: Final = 60.0
CLUSTER: Final = "kubernetes.cluster"
ACCESS: Final = "kubernetes.access"
NAMESPACES: Final = WatchedKind(
    kind="kubernetes.namespace", group="", version="v1", plural="namespaces",
    api_kind="Namespace", type=KubernetesObject, namespaced=False,
)  # fmt: skip


class Outbox:
    """What waits to be published, in order; who adds more than the bus takes has to wait.

    Samples are published while nothing else waits: thousands of them come at once, and people look
    at what changes.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._waiting: list[Signal] = []
        self._samples: asyncio.Queue[Sequence[Signal]] = asyncio.Queue(maxsize=1)
        self._filled, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()

    async def add(self, signals: Sequence[Signal]) -> None:
        """Take signals; returns when there is room for more."""
        if not signals:
            return
        self._waiting += signals
        self._filled.set()
        if len(self._waiting) > WAITING:
            self._room.clear()
        await self._room.wait()

    async def measured(self, samples: Sequence[Signal]) -> None:
        """Take samples; returns when those before them are about to be published."""
        if samples:
            await self._samples.put(samples)
            self._filled.set()

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            await self._filled.wait()
            if self._waiting:
                batch: Sequence[Signal] = self._waiting[:BATCH]
                self._waiting = self._waiting[BATCH:]
                if len(self._waiting) <= WAITING:
                    self._room.set()
            else:
                batch = self._samples.get_nowait()
            if not self._waiting and self._samples.empty():
                self._filled.clear()
            await self._publish(batch)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking for usage."""

    standing: WatchStatus
    reason: str = ""
    unmeasured: str | None = None
    """Why nobody measures, empty where somebody does; None where that is not known."""
    overloaded: bool = False
    """Whether to ask for no more in this round."""


class ClusterSource:
    """Observes one cluster."""

    rate_limit = RATE

    def __init__(
        self, cluster: ClusterSettings, settings: KubernetesSettings, context: Context
    ) -> None:
        self.cluster, self.settings, self.context = cluster, settings, context
        self.name = source_name(cluster)

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled."""
        async with connect(self.cluster.kube_context, self.settings) as connection:
            await Observation(self, connection, publish, report).run()


class Observation:
    """One run of a source."""

    def __init__(
        self,
        source: ClusterSource,
        connection: ApiClient,
        publish: Publish,
        report: SourceReport,
    ) -> None:
        self.cluster, self.settings = source.cluster, source.settings
        self.context, self.name = source.context, source.name
        self.connection, self.report = connection, report
        self.outbox, self.reading = Outbox(publish), Reading(source.cluster.name)
        self.reflectors: dict[tuple[str, str], Reflector] = {}
        self._kinds = watched_kinds(source.settings, source.cluster)
        self._unreachable: str | None = "it has not answered yet"
        self._since = now()
        """Microseconds since the epoch: since when the cluster stands as it does."""
        self._problems: dict[tuple[str, str], tuple[WatchStatus, str]] = {}
        self._pending: set[tuple[str, str]] = set()
        """The kinds and namespaces whose first list is not complete."""
        self._told_problems: set[tuple[str, str]] = set()
        self._unmeasured: dict[tuple[str, str], str] = {}
        """Why nobody tells what things of a kind in a namespace use, where that is so."""
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Observe until cancelled."""
        await self._recall()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.outbox.run(), name="publishing")
            group.create_task(self.connection.monitor(self._heard), name="probing")
            group.create_task(self._tell(), name="telling how it stands")
            group.create_task(self._tick(), name="ticking")
            for watched in measured_kinds(self.settings, self.cluster):
                group.create_task(self._measure(watched), name=f"measuring {watched.kind}")
            for watched in self._kinds:
                if not watched.namespaced:
                    group.create_task(self._reflect(watched, ""))
            if self.cluster.namespace_selector:
                group.create_task(self._select(group))
                namespaces: Sequence[str] = ()
            else:
                namespaces = self.cluster.namespaces or ("",)
            for watched in self._kinds:
                if watched.namespaced:
                    for namespace in namespaces:
                        group.create_task(self._reflect(watched, namespace))

    # What is there

    async def _reflect(self, watched: WatchedKind, namespace: str) -> None:
        key = watched.kind, namespace

        async def accept(batch: Batch) -> None:
            await self._take(watched, namespace, batch)

        def told(standing: WatchStatus, reason: str) -> None:
            self._stands(key, watched, standing, reason)

        reflector = Reflector(self.connection, watched, namespace, accept, told)
        self.reflectors[key] = reflector
        try:
            await reflector.run()
        finally:
            del self.reflectors[key]

    async def _take(self, watched: WatchedKind, namespace: str, batch: Batch) -> None:
        signals: list[Signal] = []
        if isinstance(batch, Listing):
            signals = self.reading.listed(watched, namespace, batch.objects)
            malformed = sum(isinstance(it, Malformed) for it in batch.objects)
        else:
            for thing, deleted in batch.changes:
                read = self.reading.deleted if deleted else self.reading.changed
                signals += read(watched, thing)
            malformed = sum(isinstance(it, Malformed) for it, _ in batch.changes)
        if malformed:
            self.report.rejected(malformed)
        await self.outbox.add(signals)

    async def _select(self, group: asyncio.TaskGroup) -> None:
        """Watch the namespaces that have the labels, as they come and go."""
        running: dict[str, list[asyncio.Task[None]]] = {}

        async def change(name: str, there: bool) -> None:
            kinds = [it for it in self._kinds if it.namespaced]
            if there and name not in running:
                running[name] = [group.create_task(self._reflect(it, name)) for it in kinds]
            elif not there and name in running:
                tasks = running.pop(name)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                for watched in kinds:
                    self._stands((watched.kind, name), watched, "ok", "")
                    await self._take(watched, name, Listing(()))
                for watched in measured_kinds(self.settings, self.cluster):
                    self._stands((f"{watched.kind}.usage", name), watched, "ok", "")
                    self._measured((watched.kind, name), "")

        async def accept(batch: Batch) -> None:
            if isinstance(batch, Listing):
                names = [it.metadata.name for it in batch.objects]
                for gone in [it for it in running if it not in names]:
                    await change(gone, False)
                # Those that an earlier run watched, and that have lost their labels since.
                for left in self.reading.namespaces() - set(names) - set(running):
                    for watched in self._kinds:
                        if watched.namespaced:
                            await self._take(watched, left, Listing(()))
                for name in names:
                    await change(name, True)
                return
            for thing, deleted in batch.changes:
                await change(thing.metadata.name, not deleted)

        def told(standing: WatchStatus, reason: str) -> None:
            self._stands((NAMESPACES.kind, ""), NAMESPACES, standing, reason)

        await Reflector(
            self.connection, NAMESPACES, "", accept, told,
            selector=self.cluster.namespace_selector, metadata_only=True,
        ).run()  # fmt: skip

    async def _measure(self, watched: WatchedKind) -> None:
        """Ask for what is used, where somebody measures it."""
        async for _ in every(self.settings.usage_every):
            await self.connection.wait_until_reachable()
            for namespace in self._namespaces() if watched.namespaced else [""]:
                asked = await self._ask_usage(watched, namespace)
                if watched.namespaced and namespace not in self._namespaces():
                    # It lost its labels meanwhile, and nothing is said of it any more.
                    continue
                key = f"{watched.kind}.usage", namespace
                self._stands(key, watched, asked.standing, asked.reason)
                if asked.unmeasured is not None:
                    self._measured((watched.kind, namespace), asked.unmeasured)
                if asked.overloaded:
                    break

    async def _ask_usage(self, watched: WatchedKind, namespace: str) -> Asked:
        """Tell of what is used in a namespace, and how that stands."""
        try:
            found, _ = await list_pages(
                self.connection, watched, namespace, limit=self.settings.page
            )
        except ApiError as error:
            # Without a metrics server the API is absent, or answers 503.
            standing: WatchStatus = "forbidden" if error.status == 403 else "absent"
            return Asked(
                standing=standing,
                reason=str(error),
                unmeasured=f"{watched.path} answers {error.status}: {error}",
                overloaded=error.status == 429,
            )
        except (UnreachableError, ProtocolError) as error:
            return Asked(standing="failing", reason=f"{watched.plural}: {error}")
        for start in range(0, len(found), MEASURED):
            part = found[start : start + MEASURED]
            await self.outbox.measured(self.reading.usage(watched, part))
        return Asked(standing="ok", unmeasured="")

    def _namespaces(self) -> list[str]:
        if self.cluster.everywhere:
            return [""]
        if self.cluster.namespaces:
            return self.cluster.namespaces
        return sorted({namespace for _, namespace in self.reflectors if namespace})

    async def _tick(self) -> None:
        async for _ in every(TICK):
            await self.outbox.add(self.reading.tick())

    # How it stands

    def _heard(self, reason: str) -> None:
        """The API server does not answer, for this reason; or, without one, it does."""
        text = reason or None
        if (text is None) != (self._unreachable is None):
            self._since = now()
        if text != self._unreachable:
            self._unreachable = text
            self._changed.set()

    def _measured(self, key: tuple[str, str], why_not: str) -> None:
        before = self._unmeasured.pop(key, "")
        if why_not:
            self._unmeasured[key] = why_not
        if why_not != before:
            self._changed.set()

    def _stands(
        self, key: tuple[str, str], watched: WatchedKind, standing: WatchStatus, reason: str
    ) -> None:
        if standing == "pending":
            self._pending.add(key)
        elif key in self._pending:
            self._pending.discard(key)
            if not self._pending:
                self._changed.set()
        fine = standing in ("ok", "pending") or (standing == "absent" and watched.optional)
        before = self._problems.get(key)
        if fine:
            self._problems.pop(key, None)
        else:
            self._problems[key] = standing, reason
        if before != self._problems.get(key):
            self._changed.set()

    async def _tell(self) -> None:
        """Publish how the cluster stands, whenever that changes."""
        while True:
            self._changed.clear()
            problems = dict(self._problems)
            if self._unreachable is not None:
                self.report.degraded(self._unreachable)
            elif problems:
                self.report.degraded(_summary(problems))
            elif not self._pending:
                self.report.recovered()
            await self.outbox.add([self._standing(problems), *self._access(problems)])
            await self._changed.wait()

    def _standing(self, problems: dict[tuple[str, str], tuple[WatchStatus, str]]) -> Resource:
        status, severity, reason = "ok", Severity.INFO, ""
        if self._unreachable is not None:
            status, severity, reason = "unreachable", Severity.ERROR, self._unreachable
        elif problems:
            status, severity, reason = "partial", Severity.WARN, _summary(problems)
        elif self._pending:
            status, reason = "syncing", "not every kind is listed yet"
        unmeasured = next(iter(self._unmeasured.values()), "")
        version = (
            ".".join(map(str, self.connection.version)) if any(self.connection.version) else ""
        )
        return Resource(
            kind=CLUSTER,
            name=self.cluster.name or "cluster",
            status=status,
            severity=severity,
            state={
                "server": self.connection.server, "version": version, "since": self._since,
                **({"reason": reason} if reason else {}),
                **({"usage": unmeasured} if unmeasured else {}),
            },
        )  # fmt: skip

    def _access(
        self, problems: dict[tuple[str, str], tuple[WatchStatus, str]]
    ) -> Sequence[Resource]:
        """What cannot be watched, each with the rule that is missing; and what can be again."""
        solved = self._told_problems - set(problems)
        self._told_problems = set(problems)
        return [
            *(self._access_to(key, deleted=True) for key in solved),
            *(self._access_to(key, *told) for key, told in problems.items()),
        ]

    def _access_to(
        self,
        key: tuple[str, str],
        standing: WatchStatus = "ok",
        reason: str = "",
        deleted: bool = False,
    ) -> Resource:
        kind, namespace = key
        state = {"kind": kind, "reason": reason}
        if standing == "forbidden":
            state["rule"] = missing(self._watched(kind), namespace)
        return Resource(
            kind=ACCESS,
            namespace="/".join(filter(None, (self.cluster.name, namespace))),
            name=kind.removeprefix("kubernetes."),
            status=standing,
            severity=Severity.WARN,
            state=state,
            deleted=deleted,
        )

    def _watched(self, kind: str) -> WatchedKind:
        measured = measured_kinds(self.settings, self.cluster)
        for it in (*self._kinds, NAMESPACES):
            if it.kind == kind:
                return it
        return next(it for it in measured if f"{it.kind}.usage" == kind)

    # What was there before a restart

    async def _recall(self) -> None:
        """Take over what earlier runs told of, so that what is gone since is told as gone."""
        kinds = {it.kind for it in self._kinds}
        prefix = f"{self.cluster.name}/" if self.cluster.name else ""
        kept, dropped = list[Resource](), list[Resource]()
        for kind, namespace, name in await self.context.known_resources(self.name):
            if kind == CLUSTER:
                continue
            # What is in no namespace stands in that of its cluster.
            inside = "" if namespace == self.cluster.name else namespace.removeprefix(prefix)
            there = not self.cluster.namespaces or inside in ("", *self.cluster.namespaces)
            watched = kind in kinds and there
            it = Resource(kind=kind, namespace=namespace, name=name, deleted=not watched)
            (kept if watched else dropped).append(it)
        self.reading.adopt(kept)
        # Nobody watches these any more, by the configuration; and what stands in the way now is
        # told anew.
        await self.outbox.add(dropped)


def _summary(problems: dict[tuple[str, str], tuple[WatchStatus, str]]) -> str:
    """The problems in a sentence."""
    forbidden = sorted(
        f"{kind.removeprefix('kubernetes.')}{f' in {namespace}' if namespace else ''}"
        for (kind, namespace), (standing, _) in problems.items()
        if standing == "forbidden"
    )
    parts = []
    if forbidden:
        more = f" and {len(forbidden) - 5} more" if len(forbidden) > 5 else ""
        parts.append(
            f"RBAC forbids {', '.join(forbidden[:5])}{more}; `almenara kubernetes rbac` prints the"
            " rules that are needed"
        )
    others = [reason for standing, reason in problems.values() if standing != "forbidden"]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        parts.append(f"{others[0]}{more}")
    return "; ".join(parts)
