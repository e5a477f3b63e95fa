"""The logs of jobs: the end of one that failed, for history, and one that somebody looks at."""

import contextlib
import re
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, Line
from almenara.sdk import NotFound, sleep
from almenara.signals import Severity
from almenara_ray import answers
from almenara_ray.answers import AnswerError, Job
from almenara_ray.dashboard import AskingError, Dashboard, MissingError
from almenara_ray.jobs import Known
from almenara_ray.masking import masked
from almenara_ray.settings import ClusterSettings, RaySettings

ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
LONGEST_LINE: Final = 4_000
SHOWN: Final = 500
PLAIN: Final = (2, 40)
"""The first Ray that was seen to give parts of a log as they are; before, each part begins with a
digit that says whether it could be read, and nobody can tell it from the text any more."""
AGAIN: Final = 2.0
WORSE: Final[Sequence[tuple[re.Pattern[str], Severity]]] = (
    (re.compile(r"\b(?:CRITICAL|FATAL)\b"), Severity.FATAL),
    (re.compile(r"\bERROR\b|^Traceback \(most recent|^\w*(?:\.\w+)*(?:Error|Exception): "),
     Severity.ERROR),
    (re.compile(r"\bWARN(?:ING)?\b"), Severity.WARN),
)  # fmt: skip


async def last_part(dashboard: Dashboard, job: Job, settings: RaySettings) -> tuple[str, str]:
    """The end of the log of a job, and what is to be said of it: why it is empty, or cut."""
    try:
        text = await _end_of(dashboard, job, settings.log_lines)
    except (AskingError, AnswerError) as error:
        return "", f"its log could not be read: {error}"
    kept = clean(text)
    lines = kept.splitlines()[-settings.log_lines :]
    kept = masked("\n".join(lines))
    cut = kept.encode("utf-8", "replace")
    if len(cut) > settings.log_bytes:
        kept = cut[-settings.log_bytes :].decode("utf-8", "ignore")
        return kept, f"the last {settings.log_bytes:,} bytes"
    return kept, "" if kept else "it wrote nothing"


async def _plain(dashboard: Dashboard) -> bool:
    """Whether this Ray gives parts of a log as they are."""
    if not dashboard.ray:
        with contextlib.suppress(MissingError):
            dashboard.ray = answers.version(await dashboard.get("version")).ray
    numbers = re.findall(r"\d+", dashboard.ray)[:2]
    return tuple(map(int, numbers)) >= PLAIN


async def _end_of(dashboard: Dashboard, job: Job, lines: int) -> str:
    """The end of a log by lines where Ray can give that, else the whole."""
    if job.node_id and await _plain(dashboard):
        try:
            body = await dashboard.get(
                "log", node_id=job.node_id, filename=log_name(job.id), lines=lines, format="text"
            )
            return body.decode("utf-8", "replace")
        except AskingError:
            # A node that is gone; the other endpoint may know more.
            pass
    return answers.log_text(await dashboard.get("job_logs", job=job.id))


def log_name(job: str) -> str:
    """The file that Ray writes the log of a submitted job to."""
    return f"job-driver-{job}.log"


def clean(text: str) -> str:
    """The text without colours, and each line as a terminal would have left it."""
    text = ESCAPES.sub("", text)
    # A progress bar writes over itself; what it wrote last is what counts.
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join(line[:LONGEST_LINE] for line in lines).strip("\n")


def bounded(rest: str) -> str:
    """The end of a line that goes on and on, without the words at the cut: they may be a secret
    whose name is cut off."""
    if len(rest) <= 2 * LONGEST_LINE:
        return rest
    words = rest[-LONGEST_LINE:].split(None, 2)
    return words[2] if len(words) > 2 else ""


def line(text: str) -> Line:
    """A line with a severity, where it says one."""
    for expression, severity in WORSE:
        if expression.search(text):
            return Line(text=masked(text), severity=severity)
    return Line(text=masked(text))


class JobLogs:
    """The tail `job-logs`: the log of a job as it is written."""

    name = "job-logs"

    def __init__(self, settings: RaySettings, context: Context) -> None:
        self.settings, self.context = settings, context

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """The last lines, then each as it is written, until the job ends."""
        cluster = await self._cluster(asked.get("namespace", ""))
        if cluster is None:
            raise NotFound(
                f"There is no cluster {asked.get('namespace', '')!r} to ask for a log; what was"
                " kept of it is in its events."
            )
        async with Dashboard(cluster, self.settings) as dashboard:
            job = await self._job(dashboard, asked.get("name", ""))
            if job.driver:
                raise NotFound("Ray keeps no log of a driver that was not submitted as a job.")
            async for batch in self._follow(dashboard, job):
                yield batch

    async def _cluster(self, name: str) -> ClusterSettings | None:
        """A cluster that is configured, or is followed now; nobody else is asked, whatever name
        a viewer gives."""
        for it in self.settings.clusters:
            if it.name == name:
                return it
        for place in self.settings.kuberay:
            stored = await self.context.load(place.source)
            with contextlib.suppress(msgspec.MsgspecError):
                found = msgspec.msgpack.decode(stored, type=dict[str, bytes]) if stored else {}
                if name in found:
                    known = msgspec.msgpack.decode(found[name], type=Known)
                    return place.place(name, known.address) if known.address else None
        return None

    async def _job(self, dashboard: Dashboard, name: str) -> Job:
        job: Job | None = None
        with contextlib.suppress(MissingError):
            job = answers.job(answers.decoded(await dashboard.get("job", job=name)))
        if job is None:
            raise NotFound(
                "Ray does not know this job any more; what was kept of its log is with its end."
            )
        return job

    async def _follow(self, dashboard: Dashboard, job: Job) -> AsyncIterator[Sequence[Line]]:
        if job.status in answers.FINISHED:
            text = clean(await _end_of(dashboard, job, SHOWN))
            yield [line(it) for it in text.split("\n")[-SHOWN:]]
            return
        while not job.node_id:
            yield []
            await sleep(AGAIN)
            job = await self._job(dashboard, job.id)
        if not await _plain(dashboard):
            async for batch in self._ask_again(dashboard, job):
                yield batch
            return
        rest, decoder = "", getincrementaldecoder("utf-8")("replace")
        parts = dashboard.stream(
            "log_stream", node_id=job.node_id, filename=log_name(job.id), lines=SHOWN,
            interval=0.5, format="text",
        )  # fmt: skip
        async for part in parts:
            whole, _, rest = (rest + decoder.decode(part)).rpartition("\n")
            rest = bounded(rest)
            if whole:
                yield [line(it) for it in clean(whole).split("\n")]
        if rest:
            yield [line(clean(rest))]

    async def _ask_again(self, dashboard: Dashboard, job: Job) -> AsyncIterator[Sequence[Line]]:
        """The log of a Ray that cannot stream it: the whole, again and again, and what is new."""
        known = 0
        while True:
            ended = job.status in answers.FINISHED
            text = answers.log_text(await dashboard.get("job_logs", job=job.id))
            # A line that is not whole yet is told when it is.
            whole = len(text) if ended else text.rfind("\n") + 1
            if whole > known:
                yield [line(it) for it in clean(text[known:whole]).split("\n")[-SHOWN:]]
                known = whole
            if ended:
                return
            await sleep(AGAIN)
            job = await self._job(dashboard, job.id)
