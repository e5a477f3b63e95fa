"""The jobs of a cluster as each list has them, compared with the list before: each transition once.

No I/O happens here. A run of a job is known by its id and when it was submitted.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from almenara.sdk import now
from almenara_ray.answers import FINISHED, UNFINISHED, Job
from almenara_ray.durations import Durations

LOST: Final = "LOST"
REMEMBERED: Final = 600_000_000
"""Microseconds before the newest known end within which finished jobs are known one by one."""
ABSENT: Final = 2
"""Lists in a row that an unfinished job is missing from before it counts as lost."""


class Known(msgspec.Struct, kw_only=True):
    """What is remembered of a cluster over restarts."""

    address: str = ""
    """Address of its dashboard, where that was found and not configured."""
    session: str = ""
    head: str = ""
    unfinished: dict[str, Job] = {}
    running: list[str] = []
    """Keys of unfinished jobs that were told as running."""
    stuck: list[str] = []
    """Keys of unfinished jobs that were told as stuck."""
    horizon: int = 0
    """The newest end that was told, in microseconds since the epoch."""
    recent: dict[str, int] = {}
    """Ends that were told, near the horizon, by key."""
    down_since: int = 0
    """When it stopped answering; 0 while it answers."""
    durations: Durations = msgspec.field(default_factory=Durations)


class Transition(msgspec.Struct, kw_only=True):
    """Something that happened to a job."""

    job: Job
    what: str
    """`submitted`, `running`, `pending`, `succeeded`, `failed`, `stopped` or `lost`."""
    time: int
    reason: str = ""
    log: str = ""
    log_note: str = ""
    """Why there is no log, or what of it is missing."""


class Jobs:
    """The jobs of one cluster, brought up to date by each list."""

    def __init__(self, known: Known, *, pending_after: float, finished: int) -> None:
        self.known, self.pending_after, self.finished_kept = known, pending_after, finished
        self.finished: dict[str, Job] = {}
        """The last ones that ended, by key."""
        self.counts: dict[str, int] = {}
        """How many the last list had of each status."""
        self._seen: set[str] = set()
        """Keys of the finished jobs of the last list."""
        self._absent: dict[str, int] = {}

    @property
    def busy(self) -> bool:
        """Whether any job runs or waits."""
        return bool(self.known.unfinished)

    def vanished(self, jobs: Sequence[Job]) -> bool:
        """Whether an unfinished job is missing from a list."""
        listed = {it.key for it in jobs}
        return any(key not in listed for key in self.known.unfinished)

    def transitions(
        self,
        jobs: Sequence[Job],
        *,
        restarted: bool = False,
        partial: bool = False,
        ended: str = "",
    ) -> list[Transition]:
        """What happened since the list before, in order.

        `restarted` says that the head was started anew in between, `partial` that finished jobs
        are not all in the list, `ended` why there will be no further list.
        """
        known, moment = self.known, now()
        # What this list tells moves the horizon, and must not hide what stands after it.
        horizon = known.horizon
        found: list[Transition] = []
        listed: set[str] = set()
        ended_runs: set[str] = set()
        for job in jobs:
            listed.add(job.key)
            before = known.unfinished.get(job.key)
            if job.status in FINISHED:
                told = before is None and (job.key in self._seen or self._is_told(job, horizon))
                ended_runs.add(job.key)
                if told:
                    self.finished[job.key] = job
                    continue
                if before is None:
                    found.append(_submitted(job, moment))
                found.append(
                    Transition(
                        job=job,
                        what=job.status.lower(),
                        time=max(job.ended or moment, job.submitted),
                        reason=reason_of(job),
                    )
                )
                self._end(job, moment)
            elif job.status in UNFINISHED:
                if before is None:
                    found.append(_submitted(job, moment))
                if job.status == "RUNNING" and job.key not in known.running:
                    found.append(Transition(job=job, what="running", time=moment))
                    known.running.append(job.key)
                known.unfinished[job.key] = job
                found.extend(self._stuck(job, moment))
        if not partial:
            gone = "the head was started anew and does not know it; it ended with the old one"
            found += self._lost(listed, moment, ended or (gone if restarted else ""))
        # Whatever the clock of its head says, what has been told and is still listed is known.
        self._seen = self._seen | ended_runs if partial else ended_runs
        found.sort(key=lambda it: it.time)
        self.counts = _counted(jobs)
        self._shorten()
        return found

    def _is_told(self, job: Job, horizon: int) -> bool:
        ended = job.ended or job.submitted
        return job.key in self.known.recent or ended <= horizon - REMEMBERED

    def _end(self, job: Job, moment: int) -> None:
        known = self.known
        known.unfinished.pop(job.key, None)
        self._absent.pop(job.key, None)
        for keys in (known.running, known.stuck):
            if job.key in keys:
                keys.remove(job.key)
        self.finished[job.key] = job
        if job.status == LOST:
            # Should it be found again, its end is still to be told.
            return
        ended = min(job.ended or moment, moment)
        known.recent[job.key] = ended
        known.horizon = max(known.horizon, ended)
        if job.status == "SUCCEEDED" and job.seconds is not None and job.entrypoint:
            known.durations.note(job.entrypoint, job.seconds)

    def _stuck(self, job: Job, moment: int) -> Iterable[Transition]:
        waited = (moment - job.submitted) / 1_000_000
        if job.status != "PENDING" or not job.submitted or waited < self.pending_after:
            return
        if job.key not in self.known.stuck:
            self.known.stuck.append(job.key)
            why = job.message or "Ray does not say what it waits for"
            yield Transition(job=job, what="pending", time=moment, reason=why)

    def _lost(self, listed: set[str], moment: int, gone: str) -> list[Transition]:
        found = []
        for key, job in list(self.known.unfinished.items()):
            if key in listed:
                self._absent.pop(key, None)
                continue
            self._absent[key] = self._absent.get(key, 0) + 1
            if not gone and self._absent[key] < ABSENT:
                continue
            reason = gone or "Ray does not list it any more, and has not told how it ended"
            lost = msgspec.structs.replace(job, status=LOST, ended=moment)
            self._end(lost, moment)
            found.append(Transition(job=lost, what="lost", time=moment, reason=reason))
        return found

    def _shorten(self) -> None:
        known = self.known
        oldest = known.horizon - REMEMBERED
        known.recent = {key: ended for key, ended in known.recent.items() if ended > oldest}
        extra = len(self.finished) - self.finished_kept
        if extra > 0:
            by_end = sorted(self.finished.values(), key=lambda it: it.ended or it.submitted)
            for job in by_end[:extra]:
                del self.finished[job.key]


def reason_of(job: Job) -> str:
    """Why a job failed, in one line: what its driver said last, or what Ray says of it."""
    if job.status not in ("FAILED", LOST):
        return ""
    head, _, log = job.message.partition("last available logs")
    said = [line.strip() for line in log.partition(":\n")[2].splitlines() if line.strip()]
    if said:
        code = f" (exit code {job.exit_code})" if job.exit_code is not None else ""
        return f"{said[-1][:300]}{code}"
    first = next((line.strip() for line in job.message.splitlines() if line.strip()), "")
    return first[:300] or job.error_type or head[:300]


def _submitted(job: Job, moment: int) -> Transition:
    # As it was then, also where it is first seen at its end.
    then = msgspec.structs.replace(
        job, status="PENDING", ended=None, message="", error_type="", exit_code=None
    )
    return Transition(job=then, what="submitted", time=job.submitted or moment)


def _counted(jobs: Sequence[Job]) -> dict[str, int]:
    found: dict[str, int] = {}
    for job in jobs:
        found[job.status] = found.get(job.status, 0) + 1
    return found
