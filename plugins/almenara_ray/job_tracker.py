"""Compares each job list with the one before, and returns every transition of a job once.

No I/O happens here. A run of a job is identified by its id and its time of submission.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from almenara.sdk import now
from almenara.units import MINUTE, SECOND
from almenara_ray.models import FINISHED, LOST, UNFINISHED, Job, SavedState

RECENT: Final = 10 * MINUTE
"""Age, relative to the newest known end, within which finished jobs are remembered one by one.
Older ones count as published, so that a long list costs no memory."""
ABSENT_LIMIT: Final = 2
"""Lists in a row that an unfinished job is missing from before it counts as lost."""
HEAD_RESTARTED: Final = "the head was restarted and does not know it; it ended with the old head"
NOT_LISTED: Final = "Ray no longer lists it, and did not report how it ended"


class Transition(msgspec.Struct, kw_only=True):
    """Something that happened to a job."""

    job: Job
    event: str
    """`submitted`, `running`, `pending`, `succeeded`, `failed`, `stopped` or `lost`."""
    time: int
    reason: str = ""
    log: str = ""
    log_note: str = ""
    """Why there is no log, or which part of it is missing."""


class JobTracker:
    """The jobs of one cluster, updated from each list."""

    def __init__(self, saved: SavedState, *, pending_after: float, finished_limit: int) -> None:
        self.saved, self.pending_after, self.finished_limit = saved, pending_after, finished_limit
        self.finished: dict[str, Job] = {}
        """The last jobs that ended, by key."""
        self.counts: dict[str, int] = {}
        """How many jobs of the last list had each status."""
        self.is_current = False
        """Whether the last request for the job list succeeded."""
        self._listed_ends: set[str] = set()
        """Keys of the finished jobs of the last list."""
        self._absences: dict[str, int] = {}
        """Lists in a row that an unfinished job was missing from, by key."""

    @property
    def is_active(self) -> bool:
        """Whether any job is running or pending."""
        return bool(self.saved.unfinished)

    def has_missing(self, jobs: Sequence[Job]) -> bool:
        """Return whether an unfinished job is missing from a list."""
        listed = {job.key for job in jobs}
        return any(key not in listed for key in self.saved.unfinished)

    def update(
        self,
        jobs: Sequence[Job],
        *,
        restarted: bool = False,
        partial: bool = False,
        forgotten: Collection[str] = (),
        closed: str = "",
    ) -> list[Transition]:
        """Return what happened since the previous list, in order of time.

        `restarted`: the head was restarted in between. `partial`: the list may lack jobs, of which
        those with the keys in `forgotten` do not exist any more. `closed`: why there will be no
        further list; every unfinished job is then lost.
        """
        moment, jobs = now(), self._complete_starts(jobs)
        # Ends of this list move the horizon, which must not hide later entries of the same list.
        horizon = self.saved.horizon
        transitions: list[Transition] = []
        ended: set[str] = set()
        for job in jobs:
            if job.status in FINISHED:
                ended.add(job.key)
                transitions += self._update_finished(job, moment, horizon)
            elif job.status in UNFINISHED:
                transitions += self._update_unfinished(job, moment)
        listed = {job.key for job in jobs}
        absent = (
            forgotten if partial else [key for key in self.saved.unfinished if key not in listed]
        )
        self._absences = {key: self._absences.get(key, 0) + 1 for key in absent}
        reason = closed or (HEAD_RESTARTED if restarted else "")
        transitions += self._find_lost(moment, reason)
        # A published end that is still listed stays known, whatever the head's clock reads.
        self._listed_ends = self._listed_ends | ended if partial else ended
        self.counts = dict(Counter(job.status for job in jobs))
        self.is_current = True
        self._drop_old()
        return sorted(transitions, key=lambda transition: transition.time)

    def _complete_starts(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Return the jobs with the time of submission that their runs are known by.

        Some versions of Ray report 0 in one API, or while a job is pending, and the time in the
        other, or later: both are the same run.
        """
        known = {job.id: job for job in self.saved.unfinished.values()}
        completed = []
        for job in jobs:
            run = known.get(job.id)
            if run is not None and run.submitted and not job.submitted:
                completed.append(msgspec.structs.replace(job, submitted=run.submitted))
                continue
            if run is not None and job.submitted and not run.submitted:
                self._rename(run, job.submitted)
            completed.append(job)
        return completed

    def _rename(self, run: Job, submitted: int) -> None:
        saved = self.saved
        renamed = msgspec.structs.replace(run, submitted=submitted)
        del saved.unfinished[run.key]
        saved.unfinished[renamed.key] = renamed
        for keys in (saved.running, saved.stuck):
            if run.key in keys:
                keys[keys.index(run.key)] = renamed.key

    def _update_finished(self, job: Job, moment: int, horizon: int) -> Iterable[Transition]:
        was_unfinished = job.key in self.saved.unfinished
        is_published = job.key in self._listed_ends or self._is_published(job, horizon)
        if not was_unfinished and is_published:
            self.finished[job.key] = job
            return
        if not was_unfinished:
            yield _submission(job, moment)
        yield Transition(
            job=job,
            event=job.status.lower(),
            time=max(job.ended or moment, job.submitted),
            reason=find_reason(job),
        )
        self._end(job, moment)

    def _update_unfinished(self, job: Job, moment: int) -> Iterable[Transition]:
        saved = self.saved
        if job.key not in saved.unfinished:
            yield _submission(job, moment)
        if job.status == "RUNNING" and job.key not in saved.running:
            saved.running.append(job.key)
            yield Transition(job=job, event="running", time=moment)
        saved.unfinished[job.key] = job
        waited = (moment - job.submitted) / SECOND
        if job.status != "PENDING" or not job.submitted or waited < self.pending_after:
            return
        if job.key not in saved.stuck:
            saved.stuck.append(job.key)
            reason = job.message or "Ray does not report what it waits for"
            yield Transition(job=job, event="pending", time=moment, reason=reason)

    def _find_lost(self, moment: int, reason: str) -> Iterable[Transition]:
        for key, count in list(self._absences.items()):
            if not reason and count < ABSENT_LIMIT:
                continue
            lost = msgspec.structs.replace(self.saved.unfinished[key], status=LOST, ended=moment)
            self._end(lost, moment)
            yield Transition(job=lost, event="lost", time=moment, reason=reason or NOT_LISTED)

    def _is_published(self, job: Job, horizon: int) -> bool:
        ended = job.ended or job.submitted
        return job.key in self.saved.recent or ended <= horizon - RECENT

    def _end(self, job: Job, moment: int) -> None:
        saved = self.saved
        saved.unfinished.pop(job.key, None)
        self._absences.pop(job.key, None)
        for keys in (saved.running, saved.stuck):
            if job.key in keys:
                keys.remove(job.key)
        self.finished[job.key] = job
        if job.status == LOST:
            # Should a later list have the job after all, its real end is still to be published.
            return
        ended = min(job.ended or moment, moment)
        saved.recent[job.key] = ended
        saved.horizon = max(saved.horizon, ended)
        if job.status == "SUCCEEDED" and job.seconds is not None and job.entrypoint:
            saved.durations.add(job.entrypoint, job.seconds)

    def _drop_old(self) -> None:
        saved = self.saved
        oldest = saved.horizon - RECENT
        saved.recent = {key: ended for key, ended in saved.recent.items() if ended > oldest}
        surplus = len(self.finished) - self.finished_limit
        if surplus > 0:
            by_end = sorted(self.finished.values(), key=lambda job: job.ended or job.submitted)
            for job in by_end[:surplus]:
                del self.finished[job.key]


def find_reason(job: Job) -> str:
    """Return in one line why a job failed."""
    return job.reason or (job.error_type if job.status == "FAILED" else "")


def _submission(job: Job, moment: int) -> Transition:
    # The job as it was when submitted, also where it is first listed after its end.
    submitted = msgspec.structs.replace(
        job, status="PENDING", ended=None, reason="", message="", error_type="", exit_code=None
    )
    return Transition(job=submitted, event="submitted", time=job.submitted or moment)
