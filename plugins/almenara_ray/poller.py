"""Polls one dashboard: jobs at a fast pace, everything else at a slower one.

Each endpoint is a part of its own: one that fails, is too large or too slow makes that part
unknown, and the cluster `partial`. The cluster is down only when nothing answers.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import Backoff, HealthAggregator, monotonic, sleep
from almenara.signals import Signal
from almenara_ray.client import DashboardClient
from almenara_ray.cluster_state import ClusterState
from almenara_ray.errors import AccessDeniedError, DashboardError, MissingError, TimedOutError
from almenara_ray.job_lister import JobLister, JobListing
from almenara_ray.kinds import APPLICATION, JOB, NODE
from almenara_ray.logs import attach_logs
from almenara_ray.mapping import (
    NODE_LIMIT,
    parse_applications,
    parse_formatted_status,
    parse_node_metrics,
    parse_nodes,
    parse_state_counts,
    parse_status,
    parse_version,
)
from almenara_ray.models import Node, Version
from almenara_ray.settings import RaySettings

T = TypeVar("T")

JITTER: Final = 0.1
FIRST_RETRY: Final = 1.0
"""Seconds before the second attempt, which distinguishes a dead dashboard from a slow moment."""
LONGEST_RETRY: Final = 5.0
"""Longest pause between attempts, so that a dashboard that returns is noticed in time."""
LOAD_SHARE: Final = 0.25
"""Share of the time that a dashboard spends on answers to one loop at most."""
LONGEST_PAUSE: Final = 60.0
BATCH: Final = 1_000
TURN_BUDGET: Final = 12.0
"""Seconds for all endpoints besides the job list in one turn."""
DEAD_AFTER: Final = 2
"""Endpoints that fail at the start of a turn before the others are not requested."""
MISSING_RETRY: Final = 300.0
"""Seconds after which an endpoint that this Ray lacks is requested again."""
DASHBOARD: Final = "dashboard"
"""The part of the source's health that fails when nothing answers."""
JOBS: Final = "jobs"
MEASURED: Final = (
    "name", "cpu", "memory_used", "memory_total", "object_used", "object_total", "spilled", "disk",
    "gpus",
)  # fmt: skip
"""Fields of a node that `/nodes` measures."""


class Turn:
    """One round of requests for everything besides the job list."""

    def __init__(self) -> None:
        self.deadline = monotonic() + TURN_BUDGET
        self.answers = 0
        self.failures = 0
        self.error = ""

    @property
    def is_dead(self) -> bool:
        """Whether nothing has answered, and enough has failed to expect nothing of the rest."""
        return self.failures >= DEAD_AFTER and not self.answers


class ClusterPoller:
    """The two loops of a cluster, and what they share."""

    def __init__(
        self,
        cluster: ClusterState,
        client: DashboardClient,
        settings: RaySettings,
        publish: Publish,
        report: SourceReport,
        context: Context,
    ) -> None:
        self.cluster, self.client, self.settings = cluster, client, settings
        self.publish, self.report, self.context = publish, report, context
        self._health = HealthAggregator(report)
        self._lister = JobLister(client, cluster.saved, settings)
        self._saved = b""
        self._list_seconds = 0.0
        """How long the last job list took to arrive."""
        self._is_up = asyncio.Event()
        self._polling = asyncio.Lock()
        self._last_answer = float("-inf")
        """When an endpoint besides the job list last answered, by the monotonic clock."""
        self._missing_since: dict[str, float] = {}
        """When an endpoint was last missing, by name."""

    # Jobs

    async def poll_jobs(self) -> None:
        """Poll the job list until cancelled: fast while a job is unfinished, slowly otherwise."""
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY, jitter=JITTER)
        while True:
            started = monotonic()
            try:
                await self._update_jobs()
            except DashboardError as error:
                await self._record_failure(str(error))
                await sleep(backoff.failed())
                continue
            self._is_up.set()
            self._health.clear(DASHBOARD)
            backoff.succeeded()
            is_active = self.cluster.jobs.is_active
            settings = self.settings
            interval = settings.active_interval if is_active else settings.idle_interval
            await pause(interval, started, self._list_seconds)

    async def update_now(self) -> None:
        """Poll the job list once, besides the loop; return when it is published, or has failed."""
        # The loop meets the same error, and reports it.
        with contextlib.suppress(DashboardError):
            await self._update_jobs()

    async def finish(self, task: "asyncio.Task[None]") -> None:
        """Poll a last time, and cancel the task of the loops between two turns, never within one:
        what a turn has found is published before its source ends."""
        async with self._polling:
            with contextlib.suppress(DashboardError):
                await self._update_jobs_locked()
            task.cancel()
            await asyncio.wait([task])

    async def _update_jobs(self) -> None:
        async with self._polling:
            await self._update_jobs_locked()

    async def _update_jobs_locked(self) -> None:
        started = monotonic()
        try:
            listing = await self._lister.list_jobs()
        except DashboardError as error:
            self._list_seconds = monotonic() - started
            if isinstance(error, AccessDeniedError) or not await self._answers_since(started):
                raise
            await self._record_unknown_jobs(error)
        else:
            self._list_seconds = monotonic() - started
            await self._publish_jobs(listing)

    async def _record_unknown_jobs(self, error: DashboardError) -> None:
        if isinstance(error, TimedOutError):
            self._lister.allow_more_time()
        self._note_part(JOBS, str(error))
        unknown = self.cluster.mark_unknown(JOB, str(error))
        await self.publish([*unknown, *self.cluster.record_answer()])
        await self._save()

    async def _publish_jobs(self, listing: JobListing) -> None:
        cluster = self.cluster
        self._note_part(JOBS, listing.problem)
        restart: list[Signal] = []
        is_restarted = False
        if not self._is_up.is_set() or (
            not listing.is_partial and cluster.jobs.has_missing(listing.jobs)
        ):
            session = cluster.saved.session
            version = await self._read_version()
            is_restarted = bool(session and version.session and version.session != session)
            restart = cluster.update_version(version, "")
            if restart:
                # The new head may have endpoints that the one before lacked.
                self._missing_since.clear()
        transitions = cluster.jobs.update(
            listing.jobs,
            restarted=is_restarted,
            partial=listing.is_partial,
            forgotten=listing.forgotten,
        )
        await attach_logs(self.client, transitions, self.settings)
        if listing.malformed:
            self.report.rejected(listing.malformed)
        # The answer after an outage comes first: what it reports happened before, but was seen
        # with it.
        signals = [
            *cluster.record_answer(), *restart, *cluster.job_signals(transitions),
            *cluster.cluster_signals(),
        ]  # fmt: skip
        for start in range(0, len(signals), BATCH):
            await self.publish(signals[start : start + BATCH])
        await self._save()

    async def _answers_since(self, started: float) -> bool:
        """Return whether any endpoint has answered since, or the smallest one answers now."""
        if self._last_answer > started:
            return True
        try:
            parse_version(await self.client.get("version", within=self.settings.connect_timeout))
        except DashboardError as error:
            return isinstance(error, MissingError)
        return True

    async def _read_version(self) -> Version:
        try:
            version = parse_version(await self.client.get("version"))
        except DashboardError:
            # It is one part of several, and the job list has been read.
            return Version()
        self.client.ray_version = version.ray
        return version

    async def _record_failure(self, reason: str) -> None:
        self._is_up.clear()
        for part in list(self.cluster.failing_parts):
            # Nothing answers, which is more than that a part does not.
            self._note_part(part, "")
        await self.publish(self.cluster.record_failure(reason))
        await self._save()
        self._health.note(
            DASHBOARD,
            f"The dashboard of {self.cluster.name} cannot be read: {reason}. It is retried"
            f" (attempt {self.cluster.failures}).",
        )

    def _note_part(self, part: str, reason: str) -> None:
        """Note why a part cannot be read; an empty reason when it can."""
        if reason:
            self.cluster.failing_parts[part] = reason
        else:
            self.cluster.failing_parts.pop(part, None)
        self._health.note(part, f"{part} of {self.cluster.name}: {reason}" if reason else "")

    async def _save(self) -> None:
        # After the events are durable: one that is published again has the same id and is dropped.
        state = msgspec.msgpack.encode(self.cluster.saved)
        if state != self._saved:
            await self.context.save(self.cluster.name, state)
            self._saved = state

    # Everything else

    async def poll_cluster(self) -> None:
        """Poll everything else until cancelled, while the dashboard answers."""
        while True:
            await self._is_up.wait()
            started = monotonic()
            turn = Turn()
            signals = await self._update_cluster(turn)
            # A dashboard that does not answer is not busy: once it does, everything is read.
            busy = 0.0 if turn.is_dead else monotonic() - started
            if turn.is_dead:
                # While the job list is read as well, its loop decides: it may keep Ray busy.
                if not self._polling.locked():
                    await self._record_failure(turn.error)
            elif self._is_up.is_set():
                cluster = self.cluster
                await self.publish([*signals, *cluster.cluster_signals(), *cluster.samples()])
                cluster.note_published()
            await pause(self.settings.cluster_interval, started, busy)

    async def _update_cluster(self, turn: Turn) -> list[Signal]:
        cluster = self.cluster
        version = await self._read_part(turn, "version", parse_version)
        if version is not None:
            self.client.ray_version = version.ray
        listed = await self._read_part(turn, "nodes", parse_nodes, detail=1, limit=NODE_LIMIT)
        measured = await self._read_part(turn, "node_metrics", parse_node_metrics, view="summary")
        # Dashboards had no State API before Ray 2.3.
        nodes = listed or list((measured or {}).values())
        _copy_measurements(measured or {}, nodes)
        head = next((node.id for node in nodes if node.head and node.alive), "")
        signals = cluster.update_version(version or Version(), head)
        if signals:
            self._missing_since.clear()
        if nodes:
            signals += cluster.update_nodes(nodes)
        else:
            signals += cluster.mark_unknown(NODE, cluster.failing_parts.get("nodes", "not listed"))
        cluster.status = await self._read_part(turn, "status", parse_status)
        if cluster.status is None and "status" not in cluster.failing_parts:
            cluster.status = await self._read_part(turn, "status", parse_formatted_status, format=1)
        cluster.actors = await self._read_part(turn, "actors", parse_state_counts)
        cluster.tasks = await self._read_part(turn, "tasks", parse_state_counts)
        applications = await self._read_part(turn, "serve", parse_applications)
        if "serve" in cluster.failing_parts or turn.is_dead:
            # A failed request deletes no application; a Ray without Serve has none.
            reason = cluster.failing_parts.get("serve", turn.error)
            signals += cluster.mark_unknown(APPLICATION, reason)
        else:
            signals += cluster.update_applications(applications or [])
        return signals

    async def _read_part(
        self, turn: Turn, endpoint: str, parse: Callable[[bytes], T], **query: str | float
    ) -> T | None:
        """Return what one endpoint reports; None where it is missing, or fails, which is noted."""
        if turn.is_dead:
            return None
        if self._missing_since.get(endpoint, -MISSING_RETRY) + MISSING_RETRY > monotonic():
            return None
        if monotonic() > turn.deadline:
            self._note_part(endpoint, f"the other parts took more than {TURN_BUDGET:g} s")
            return None
        try:
            value = parse(await self.client.get(endpoint, job="", within=0.0, **query))
        except MissingError:
            # An older Ray, or one without Serve, which is not a failure.
            self._missing_since[endpoint] = monotonic()
            turn.answers += 1
            self._note_part(endpoint, "")
            return None
        except DashboardError as error:
            turn.failures += 1
            turn.error = turn.error or str(error)
            self._note_part(endpoint, str(error))
            return None
        turn.answers += 1
        self._last_answer = monotonic()
        self._note_part(endpoint, "")
        return value


def _copy_measurements(measured: dict[str, Node], nodes: Sequence[Node]) -> None:
    for node in nodes:
        if (measurement := measured.get(node.id)) is not None:
            for field in MEASURED:
                setattr(node, field, getattr(measurement, field))


async def pause(interval: float, started: float, busy: float) -> None:
    """Sleep until `interval` seconds after `started`, varied so that clusters are not polled in
    step, and long enough that a dashboard that was `busy` with the answers for so many seconds is
    idle most of the time."""
    took = monotonic() - started
    interval *= 1 + random.uniform(-JITTER, JITTER)  # nosec B311 # spreads requests, guards nothing
    least = min(busy * (1 / LOAD_SHARE - 1), LONGEST_PAUSE)
    await sleep(max(interval - took, least, interval / 4))
