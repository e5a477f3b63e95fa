"""Polls one dashboard: jobs at a fast pace, everything else at a slower one."""

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
from almenara_ray.errors import AnswerTooLargeError, DashboardError, MissingError
from almenara_ray.logs import attach_logs
from almenara_ray.mapping import (
    NODE_LIMIT,
    JobListParser,
    parse_applications,
    parse_job,
    parse_job_entries,
    parse_node_metrics,
    parse_nodes,
    parse_state_counts,
    parse_state_rows,
    parse_status,
    parse_version,
)
from almenara_ray.models import UNFINISHED, Application, ClusterStatus, Job, Node, Version
from almenara_ray.settings import RaySettings
from almenara_ray.values import decode_json

T = TypeVar("T")

JITTER: Final = 0.1
FIRST_RETRY: Final = 1.0
"""Seconds before the second attempt, which tells a dead dashboard from a slow moment."""
LONGEST_RETRY: Final = 5.0
"""Longest pause between attempts, so that a dashboard that returns is noticed in time."""
BATCH: Final = 1_000
CLUSTER_BUDGET: Final = 12.0
"""Seconds for all endpoints besides the job list in one turn."""
MISSING_RETRY: Final = 300.0
"""Seconds after which an endpoint that this Ray lacks is requested again."""
UNFINISHED_LIMIT: Final = 1_000
END_LIMIT: Final = 100
"""Jobs whose end is requested one by one in a turn, where the job list is too large."""
DASHBOARD: Final = "dashboard"
"""The part of the source's health that the job list stands for."""
MEASURED: Final = (
    "name", "cpu", "memory_used", "memory_total", "object_used", "object_total", "spilled", "disk",
    "gpus",
)  # fmt: skip
"""Fields of a node that `/nodes` measures."""


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
        self._parser = JobListParser()
        self._body = b""
        """The last job list, and the jobs parsed from it."""
        self._jobs: Sequence[Job] = ()
        self._saved = b""
        self._is_up = asyncio.Event()
        self._polling = asyncio.Lock()
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
                self._is_up.clear()
                await self.publish(self.cluster.record_failure(str(error)))
                await self._save()
                interval = backoff.failed()
                self._health.note(
                    DASHBOARD,
                    f"The dashboard of {self.cluster.name} cannot be read: {error}."
                    f" It is retried (attempt {backoff.failures}).",
                )
            else:
                self._is_up.set()
                self._health.clear(DASHBOARD)
                backoff.succeeded()
                is_active = self.cluster.jobs.is_active
                interval = (
                    self.settings.active_interval if is_active else (self.settings.idle_interval)
                )
                interval = _vary(interval)
            await _pause(interval, since=started)

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
        jobs, is_partial, malformed = await self._list_jobs()
        cluster = self.cluster
        restart: list[Signal] = []
        is_restarted = False
        if not self._is_up.is_set() or (not is_partial and cluster.jobs.has_missing(jobs)):
            session = cluster.saved.session
            version = await self._read_version()
            is_restarted = bool(session and version.session and version.session != session)
            restart = cluster.update_version(version, "")
            if restart:
                # The new head may have endpoints that the one before lacked.
                self._missing_since.clear()
        transitions = cluster.jobs.update(jobs, restarted=is_restarted, partial=is_partial)
        await attach_logs(self.client, transitions, self.settings)
        if malformed:
            self.report.rejected(malformed)
        # The answer after an outage comes first: what it reports happened before, but was seen
        # with it.
        signals = [
            *cluster.record_answer(), *restart, *cluster.job_signals(transitions),
            *cluster.cluster_signals(),
        ]  # fmt: skip
        for start in range(0, len(signals), BATCH):
            await self.publish(signals[start : start + BATCH])
        await self._save()

    async def _read_version(self) -> Version:
        try:
            version = parse_version(await self.client.get("version"))
        except MissingError:
            version = Version()
        self.client.ray_version = version.ray
        return version

    async def _list_jobs(self) -> tuple[Sequence[Job], bool, int]:
        """Return the jobs, whether finished ones may be missing, and how many are malformed."""
        failing = self.cluster.failing_parts
        try:
            body = await self.client.get("jobs")
        except AnswerTooLargeError as error:
            failing["jobs"] = f"{error}; short jobs may be missed"
            return await self._list_unfinished(), True, 0
        failing.pop("jobs", None)
        if body == self._body:
            return self._jobs, False, 0
        jobs, malformed = self._parser.parse(body)
        self._body, self._jobs = body, jobs
        return jobs, False, malformed

    async def _list_unfinished(self) -> list[Job]:
        """Return the unfinished jobs from the State API, and those known ones that ended."""
        jobs: dict[str, Job] = {}
        for status in sorted(UNFINISHED):
            body = await self.client.get(
                "unfinished", limit=UNFINISHED_LIMIT, filter_keys="status", filter_predicates="=",
                filter_values=status, detail=1,
            )  # fmt: skip
            listed, _ = parse_job_entries(parse_state_rows(body))
            jobs.update((job.key, job) for job in listed)
        for key, job in list(self.cluster.saved.unfinished.items())[:END_LIMIT]:
            if key in jobs:
                continue
            try:
                ended = parse_job(decode_json(await self.client.get("job", job=job.id)))
            except MissingError:
                continue
            if ended is not None and ended.key == key:
                jobs[key] = ended
        return list(jobs.values())

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
            signals = await self._update_cluster()
            if self._is_up.is_set():
                cluster = self.cluster
                await self.publish([*signals, *cluster.cluster_signals(), *cluster.samples()])
            await _pause(_vary(self.settings.cluster_interval), since=started)

    async def _update_cluster(self) -> list[Signal]:
        cluster, read = self.cluster, self._read_part
        deadline = monotonic() + CLUSTER_BUDGET
        version = await read("version", parse_version, Version(), deadline)
        nodes: list[Node] | None = await read(
            "nodes", parse_nodes, None, deadline, detail=1, limit=NODE_LIMIT
        )
        no_nodes: dict[str, Node] = {}
        measured = await read(
            "node_metrics", parse_node_metrics, no_nodes, deadline, view="summary"
        )
        if nodes is None:
            # Dashboards had no State API before Ray 2.3.
            nodes = list(measured.values())
        _copy_measurements(measured, nodes)
        head = next((node.id for node in nodes if node.head and node.alive), "")
        signals = cluster.update_version(version, head)
        if signals:
            self._missing_since.clear()
        if nodes:
            signals += cluster.update_nodes(nodes)
        cluster.status = await read("status", parse_status, ClusterStatus(), deadline)
        cluster.actors = await read("actors", parse_state_counts, {}, deadline)
        cluster.tasks = await read("tasks", parse_state_counts, {}, deadline)
        no_applications: list[Application] = []
        applications = await read("serve", parse_applications, no_applications, deadline)
        if "serve" not in cluster.failing_parts:
            # A failed request deletes no application.
            signals += cluster.update_applications(applications)
        return signals

    async def _read_part(
        self,
        endpoint: str,
        parse: Callable[[bytes], T],
        default: T,
        deadline: float,
        **query: str | float,
    ) -> T:
        """Return what one endpoint reports, or `default` where it is missing or fails; a failure is
        noted in `failing_parts`."""
        failing = self.cluster.failing_parts
        if self._missing_since.get(endpoint, -MISSING_RETRY) + MISSING_RETRY > monotonic():
            return default
        if monotonic() > deadline:
            failing[endpoint] = f"the other parts took more than {CLUSTER_BUDGET:g} s"
            return default
        try:
            value = parse(await self.client.get(endpoint, job="", **query))
        except MissingError:
            # An older Ray, or one without Serve, which is not a failure.
            self._missing_since[endpoint] = monotonic()
            failing.pop(endpoint, None)
            return default
        except DashboardError as error:
            failing[endpoint] = str(error)
            return default
        failing.pop(endpoint, None)
        return value


def _copy_measurements(measured: dict[str, Node], nodes: Sequence[Node]) -> None:
    for node in nodes:
        if (measurement := measured.get(node.id)) is not None:
            for field in MEASURED:
                setattr(node, field, getattr(measurement, field))


def _vary(interval: float) -> float:
    return interval * (1 + random.uniform(-JITTER, JITTER))  # nosec B311 # spreads requests, guards nothing


async def _pause(interval: float, *, since: float) -> None:
    """Sleep until `interval` seconds after `since`, but at least a quarter of the interval."""
    await sleep(max(interval - (monotonic() - since), interval / 4))
