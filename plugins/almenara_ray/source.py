"""The source of one cluster: its jobs at a quick pace, its shape at a slower one."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import monotonic, sleep
from almenara.signals import Signal
from almenara_ray import answers
from almenara_ray.answers import AnswerError, Application, Job, Node, Status, Version
from almenara_ray.dashboard import AskingError, Dashboard, MissingError, TooLongError
from almenara_ray.following import CLUSTER, Cluster
from almenara_ray.jobs import Known, Transition
from almenara_ray.logs import last_part
from almenara_ray.settings import ClusterSettings, RaySettings

T = TypeVar("T")

JITTER: Final = 0.1
AGAIN: Final = 1.0
"""Seconds before a second try, which tells a dead dashboard from a slow moment."""
LONGEST: Final = 5.0
"""Seconds between tries at most while a dashboard does not answer, so that its return is seen."""
LOGS_AT_ONCE: Final = 4
LOGS_A_LOOK: Final = 50
"""Logs read after one list at most: the newest failures, where there are more."""
BATCH: Final = 1_000
SHAPE_BUDGET: Final = 12.0
"""Seconds for one look at a cluster's shape."""
ASKED_AGAIN: Final = 300.0
"""Seconds after which an endpoint that is missing is asked for again."""


NONE: Final[dict[str, Node]] = {}


class RaySource:
    """Follows one cluster. Each has a source of its own, so that none delays another."""

    def __init__(self, cluster: ClusterSettings, settings: RaySettings, context: Context) -> None:
        self.name = f"ray/{cluster.name}"
        self.settings, self.asked, self.context = settings, cluster, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Follow until cancelled."""
        known = await load(self.context, self.asked.name)
        cluster = Cluster(
            self.asked.name, known,
            pending_after=self.settings.pending_after, finished=self.settings.finished,
        )  # fmt: skip
        cluster.earlier = await told_of(self.context, self.name, self.asked.name)
        cluster.simulated = self.asked.simulated
        if self.asked.show_address:
            cluster.address = self.asked.url
        async with Dashboard(self.asked, self.settings) as dashboard:
            following = Following(cluster, dashboard, self.settings, publish, report, self.context)
            async with asyncio.TaskGroup() as group:
                group.create_task(following.jobs(), name=f"jobs of {self.asked.name}")
                group.create_task(following.shape(), name=f"shape of {self.asked.name}")


async def load(context: Context, name: str) -> Known:
    """What is remembered of a cluster from an earlier run."""
    stored = await context.load(name)
    try:
        return msgspec.msgpack.decode(stored, type=Known) if stored else Known()
    except msgspec.MsgspecError:
        return Known()


async def told_of(context: Context, source: str, cluster: str) -> set[tuple[str, str]]:
    """Kind and name of what a source has told of a cluster, in an earlier run."""
    return {
        (kind, name)
        for kind, namespace, name in await context.known_resources(source)
        if namespace == cluster or (kind == CLUSTER and name == cluster)
    }


class Following:
    """The two loops of a cluster, and what they share."""

    def __init__(
        self,
        cluster: Cluster,
        dashboard: Dashboard,
        settings: RaySettings,
        publish: Publish,
        report: SourceReport,
        context: Context,
    ) -> None:
        self.cluster, self.dashboard, self.settings = cluster, dashboard, settings
        self.publish, self.report, self.context = publish, report, context
        self._body = b""
        self._saved = b""
        self._listed: Sequence[Job] = ()
        self._up = asyncio.Event()
        self._missing: dict[str, float] = {}
        self._looking = asyncio.Lock()
        self._reader = answers.JobList()

    async def jobs(self) -> None:
        """Look at the jobs again and again: quick while something runs, slow while nothing does."""
        while True:
            began = monotonic()
            try:
                await self._look_at_jobs()
            except (AskingError, AnswerError) as error:
                self._up.clear()
                await self.publish(self.cluster.failed(str(error)))
                await self._save()
                again = AGAIN if self.cluster.failures < 2 else self._later()
                self.report.degraded(
                    f"The dashboard of {self.cluster.name} cannot be read: {error}."
                    f" It is tried again and again; this was try {self.cluster.failures}."
                )
                wait = again
            else:
                self._up.set()
                self.report.recovered()
                wait = self.settings.active if self.cluster.jobs.busy else self.settings.idle
            wait *= 1 + random.uniform(-JITTER, JITTER)  # nosec B311 # spreads requests, guards nothing
            await sleep(max(wait - (monotonic() - began), wait / 4))

    def _later(self) -> float:
        return min(AGAIN * 2.0 ** min(self.cluster.failures - 1, 8), LONGEST)

    async def look_now(self) -> None:
        """Look at the jobs at once; returns when that is done, or has failed."""
        try:
            await self._look_at_jobs()
        except (AskingError, AnswerError):
            # The loop finds the same, and tells it.
            return

    async def finish(self, following: "asyncio.Task[None]") -> None:
        """Look a last time, and end the task that follows between two looks, never within one:
        what a look has found is published, whatever else ends."""
        async with self._looking:
            with contextlib.suppress(AskingError, AnswerError):
                await self._look()
            following.cancel()
            await asyncio.wait([following])

    async def _look_at_jobs(self) -> None:
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        jobs, partial, unread = await self._list()
        cluster = self.cluster
        first: list[Signal] = []
        restarted = False
        if not self._up.is_set() or (not partial and cluster.jobs.vanished(jobs)):
            session = cluster.known.session
            version = await self._version()
            restarted = bool(session and version.session and version.session != session)
            first = cluster.started(version, "")
            if first:
                # A new head may have what the one before had not.
                self._missing.clear()
        transitions = cluster.jobs.transitions(jobs, restarted=restarted, partial=partial)
        await self._add_logs(transitions)
        if unread:
            self.report.rejected(unread)
        # An answer after a time without any comes first: what it tells happened before the answer,
        # but was seen with it.
        signals = [*cluster.answered(), *first, *cluster.told(transitions), *cluster.resource()]
        for start in range(0, len(signals), BATCH):
            await self.publish(signals[start : start + BATCH])
        await self._save()

    async def _version(self) -> Version:
        try:
            version = answers.version(await self.dashboard.get("version"))
        except MissingError:
            version = Version()
        self.dashboard.ray = version.ray
        return version

    async def _list(self) -> tuple[Sequence[Job], bool, int]:
        """The jobs, whether those are the unfinished ones alone, and how many were unreadable."""
        lacking = self.cluster.lacking
        try:
            body = await self.dashboard.get("jobs")
        except TooLongError as error:
            lacking["jobs"] = f"{error}; jobs that are short may be missed"
            return await self._unfinished(), True, 0
        lacking.pop("jobs", None)
        if body == self._body:
            # Nothing has changed, and nothing need be read but for what time alone changes.
            return self._listed, False, 0
        listed, unread = self._reader.read(body)
        self._body, self._listed = body, listed
        return listed, False, unread

    async def _unfinished(self) -> list[Job]:
        found: dict[str, Job] = {}
        for status in sorted(answers.UNFINISHED):
            body = await self.dashboard.get(
                "unfinished", limit=1_000, filter_keys="status", filter_predicates="=",
                filter_values=status, detail=1,
            )  # fmt: skip
            listed, _ = answers.listed(answers.state_rows(body))
            found.update((it.key, it) for it in listed)
        # How those ended that were unfinished is asked of each.
        for key, job in list(self.cluster.known.unfinished.items())[:100]:
            if key in found:
                continue
            try:
                ended = answers.job(answers.decoded(await self.dashboard.get("job", job=job.id)))
            except MissingError:
                continue
            if ended is not None and ended.key == key:
                found[key] = ended
        return list(found.values())

    async def _add_logs(self, transitions: Sequence[Transition]) -> None:
        failed = [it for it in transitions if it.what == "failed" and not it.job.driver]
        for it in failed[:-LOGS_A_LOOK]:
            it.log_note = f"more than {LOGS_A_LOOK} jobs had failed at once; only their last lines"
        room = asyncio.Semaphore(LOGS_AT_ONCE)

        async def add(it: Transition) -> None:
            async with room:
                it.log, it.log_note = await last_part(self.dashboard, it.job, self.settings)

        async with asyncio.TaskGroup() as group:
            for it in failed[-LOGS_A_LOOK:]:
                group.create_task(add(it))

    async def _save(self) -> None:
        # After the events are safe: one that is told again has the same id and is dropped.
        state = msgspec.msgpack.encode(self.cluster.known)
        if state != self._saved:
            await self.context.save(self.cluster.name, state)
            self._saved = state

    async def shape(self) -> None:
        """Look at everything else, while the dashboard answers."""
        while True:
            await self._up.wait()
            began = monotonic()
            signals = await self._look_at_shape()
            if self._up.is_set():
                await self.publish([*signals, *self.cluster.resource(), *self.cluster.samples()])
            wait = self.settings.shape_every * (1 + random.uniform(-JITTER, JITTER))  # nosec B311 # spreads requests, guards nothing
            await sleep(max(wait - (monotonic() - began), wait / 4))

    async def _look_at_shape(self) -> list[Signal]:
        cluster, ask = self.cluster, self._part
        end = monotonic() + SHAPE_BUDGET
        version = await ask("version", answers.version, Version(), end)
        nodes = await ask("nodes", answers.nodes, None, end, detail=1, limit=answers.NODES)
        measured: dict[str, Node] = await ask(
            "summary", answers.measured, NONE, end, view="summary"
        )
        if nodes is None:
            # Before the State API came to the dashboard.
            nodes = [] if not measured else list(measured.values())
        whole = joined(nodes, measured)
        head = next((it.id for it in whole if it.head and it.alive), "")
        signals = cluster.started(version, head)
        if signals:
            self._missing.clear()
        if whole:
            signals += cluster.shaped(whole)
        cluster.use = await ask("status", answers.status, Status(), end)
        cluster.actors = await ask("actors", answers.states, {}, end)
        cluster.tasks = await ask("tasks", answers.states, {}, end)
        applications: list[Application] = await ask("serve", answers.applications, [], end)
        if "serve" not in cluster.lacking:
            # One look that failed takes nothing away.
            signals += cluster.served(applications)
        return signals

    async def _part(
        self, what: str, read: Callable[[bytes], T], without: T, end: float, **query: str | float
    ) -> T:
        """What one endpoint tells; `without` where it cannot be had, which is noted."""
        lacking = self.cluster.lacking
        if self._missing.get(what, -ASKED_AGAIN) + ASKED_AGAIN > monotonic():
            return without
        if monotonic() > end:
            lacking[what] = f"the other parts took more than {SHAPE_BUDGET:g} s"
            return without
        try:
            found = read(await self.dashboard.get(what, job="", **query))
        except MissingError:
            # An older Ray, or one without Serve: that is no trouble.
            self._missing[what] = monotonic()
            lacking.pop(what, None)
            return without
        except (AskingError, AnswerError) as error:
            lacking[what] = str(error)
            return without
        lacking.pop(what, None)
        return found


def joined(nodes: Sequence[Node], measured: dict[str, Node]) -> list[Node]:
    """Nodes with what was measured on them."""
    for it in nodes:
        if (found := measured.get(it.id)) is None:
            continue
        for field in ("name", "cpu", "memory_used", "memory_total", "object_used",
                      "object_total", "spilled", "disk", "gpus"):  # fmt: skip
            setattr(it, field, getattr(found, field))
    return list(nodes)
