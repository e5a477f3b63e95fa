"""Reads the jobs of a dashboard, also where their list is too large or slow."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import monotonic
from almenara_ray.client import DashboardClient
from almenara_ray.errors import AnswerTooLargeError, MissingError
from almenara_ray.mapping import JobListParser, lists_no_job, parse_job, parse_state_rows
from almenara_ray.models import UNFINISHED, Job, SavedState
from almenara_ray.settings import RaySettings
from almenara_ray.values import as_object, as_text, decode_json

LONGEST_ANSWER: Final = 30.0
"""Seconds that a job list may take at most, after shorter limits were not enough."""
UNFINISHED_LIMIT: Final = 1_000
JOB_LIMIT: Final = 100
"""Jobs that are requested one by one in a turn, where the job list is too large."""


class JobListing(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a cluster at one moment."""

    jobs: Sequence[Job]
    is_partial: bool = False
    """Whether finished jobs may be missing."""
    forgotten: Sequence[str] = ()
    """Keys of unfinished jobs that a partial list lacks, and that Ray does not know any more."""
    malformed: int = 0
    problem: str = ""
    """Why jobs may be missing; empty for a complete list."""


class JobLister:
    """Reads the job list, and of one beyond `body_limit` the unfinished jobs."""

    def __init__(self, client: DashboardClient, saved: SavedState, settings: RaySettings) -> None:
        self.client, self.saved, self.settings = client, saved, settings
        self._parser = JobListParser()
        self._body = b""
        """The last job list, and what was parsed from it."""
        self._listing = JobListing(jobs=())
        self._within = settings.timeout
        """Seconds for the next job list."""

    async def list_jobs(self) -> JobListing:
        """Return the jobs. Raises `DashboardError`."""
        started = monotonic()
        try:
            body = await self.client.get("jobs", within=self._within)
        except AnswerTooLargeError as error:
            return await self._list_unfinished(f"{error}; short jobs may be missed")
        if monotonic() - started < self.settings.timeout / 2:
            self._within = self.settings.timeout
        if lists_no_job(body, self.client.version):
            return JobListing(jobs=())
        if body == self._body:
            # The same bytes have the same malformed entries, which were counted before.
            return msgspec.structs.replace(self._listing, malformed=0)
        jobs, malformed = self._parser.parse(body)
        self._body, self._listing = body, JobListing(jobs=jobs, malformed=malformed)
        return self._listing

    def allow_more_time(self) -> None:
        """Give the next list twice the time: Ray needs seconds for one of thousands of jobs."""
        self._within = min(self._within * 2, max(LONGEST_ANSWER, self.settings.timeout))

    async def _list_unfinished(self, problem: str) -> JobListing:
        """Return the unfinished jobs, and the known ones that have ended.

        The State API lists ids and statuses without details, which are what makes a list large;
        only jobs that are new or have changed are requested in full.
        """
        known = {job.id: job for job in self.saved.unfinished.values()}
        statuses = await self._list_statuses()
        changed = [
            job_id
            for job_id, status in statuses.items()
            if job_id not in known or known[job_id].status != status
        ]
        vanished = [job_id for job_id in known if job_id not in statuses]
        jobs = {known[job_id].key: known[job_id] for job_id in statuses if job_id in known}
        forgotten = []
        for job_id in [*vanished, *changed][:JOB_LIMIT]:
            job = await self._read_job(job_id)
            if job is not None:
                jobs[job.key] = job
            elif job_id in known:
                forgotten.append(known[job_id].key)
        return JobListing(
            jobs=list(jobs.values()), is_partial=True, forgotten=forgotten, problem=problem
        )

    async def _list_statuses(self) -> dict[str, str]:
        statuses: dict[str, str] = {}
        for status in sorted(UNFINISHED):
            body = await self.client.get(
                "unfinished", limit=UNFINISHED_LIMIT, filter_keys="status", filter_predicates="=",
                filter_values=status, detail=0,
            )  # fmt: skip
            for row in parse_state_rows(body):
                job_id = _find_id(as_object(row))
                if job_id:
                    statuses[job_id] = status
        return statuses

    async def _read_job(self, job_id: str) -> Job | None:
        try:
            return parse_job(decode_json(await self.client.get("job", job=job_id)))
        except MissingError:
            return None


def _find_id(row: dict[str, Any]) -> str:
    return as_text(row.get("submission_id")) or as_text(row.get("job_id"))
