"""The logs of jobs: the end of a failed job's log for history, and logs that viewers follow."""

import asyncio
import contextlib
import re
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, Line
from almenara.sdk import NotFound, sleep
from almenara.signals import Severity
from almenara_ray.client import DashboardClient
from almenara_ray.cluster_state_store import decode_values
from almenara_ray.errors import DashboardError, MissingError
from almenara_ray.job_tracker import Transition
from almenara_ray.mapping import parse_job, parse_log, parse_version
from almenara_ray.models import FINISHED, Job, SavedState
from almenara_ray.redaction import redact
from almenara_ray.settings import ClusterSettings, KubeRaySettings, RaySettings
from almenara_ray.text import LINE_LIMIT, clean_text
from almenara_ray.values import decode_json

VISIBLE_LINES: Final = 500
PLAIN_SINCE: Final = (2, 40)
"""The first tested Ray that returns parts of a log unchanged. Earlier ones start each part with a
digit that reports success, and which cannot be distinguished from the text."""
RETRY: Final = 2.0
CONCURRENT_LOGS: Final = 4
LOG_LIMIT: Final = 50
"""Logs read after one job list: those of the newest failures."""
LOG_BUDGET: Final = 8.0
"""Seconds for all of them: events wait for their logs, and must not wait for a node that hangs."""
SEVERITIES: Final[Sequence[tuple[re.Pattern[str], Severity]]] = (
    (re.compile(r"\b(?:CRITICAL|FATAL)\b"), Severity.FATAL),
    (re.compile(r"\bERROR\b|^Traceback \(most recent|^\w*(?:\.\w+)*(?:Error|Exception): "),
     Severity.ERROR),
    (re.compile(r"\bWARN(?:ING)?\b"), Severity.WARN),
)  # fmt: skip
"""Severity of a line by what it contains; the first match counts."""


# The end of a failed job's log, for history


async def attach_logs(
    client: DashboardClient, transitions: Sequence[Transition], settings: RaySettings
) -> None:
    """Add the end of its log to each transition that is a failure."""
    failures = [
        transition
        for transition in transitions
        if transition.event == "failed" and not transition.job.driver
    ]
    for transition in failures[:-LOG_LIMIT]:
        transition.log_note = (
            f"more than {LOG_LIMIT} jobs had failed at once; only their last lines"
        )
    slots = asyncio.Semaphore(CONCURRENT_LOGS)

    async def attach(transition: Transition) -> None:
        async with slots:
            transition.log, transition.log_note = await read_log_end(
                client, transition.job, settings
            )

    for transition in failures[-LOG_LIMIT:]:
        # Replaced by the log, or by the reason why it is missing.
        transition.log_note = f"its log could not be read within {LOG_BUDGET:g} s"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOG_BUDGET), asyncio.TaskGroup() as group:
            for transition in failures[-LOG_LIMIT:]:
                group.create_task(attach(transition))


async def read_log_end(client: DashboardClient, job: Job, settings: RaySettings) -> tuple[str, str]:
    """Return the end of a job's log, and a note on it: why it is empty, or that it was cut."""
    try:
        text = await _fetch_end(client, job, settings.log_lines)
    except DashboardError as error:
        return "", f"its log could not be read: {error}"
    lines = clean_text(text).splitlines()[-settings.log_lines :]
    log = redact("\n".join(lines))
    encoded = log.encode("utf-8", "replace")
    if len(encoded) > settings.log_bytes:
        end = encoded[-settings.log_bytes :].decode("utf-8", "ignore")
        return end, f"the last {settings.log_bytes:,} bytes"
    return log, "" if log else "it wrote nothing"


async def _fetch_end(client: DashboardClient, job: Job, lines: int) -> str:
    """Return the last lines of a log where this Ray can return them, else the whole log."""
    if job.node_id and await _returns_plain_text(client):
        try:
            body = await client.get(
                "log", node_id=job.node_id, filename=log_name(job.id), lines=lines, format="text"
            )
            return body.decode("utf-8", "replace")
        except DashboardError:
            # The node may be dead; the other endpoint may still have the log.
            pass
    return parse_log(await client.get("job_logs", job=job.id))


async def _returns_plain_text(client: DashboardClient) -> bool:
    if not client.ray_version:
        with contextlib.suppress(MissingError):
            client.ray_version = parse_version(await client.get("version")).ray
    return client.version >= PLAIN_SINCE


def log_name(job: str) -> str:
    """Return the name of the file that Ray writes the log of a submitted job to."""
    return f"job-driver-{job}.log"


# Text


def keep_line_end(text: str) -> str:
    """Return the end of an unfinished line that has grown too long.

    The two words at the cut are dropped: they may be a secret whose name was cut off.
    """
    if len(text) <= 2 * LINE_LIMIT:
        return text
    words = text[-LINE_LIMIT:].split(None, 2)
    return words[2] if len(words) > 2 else ""


def make_line(text: str) -> Line:
    """Return a line, with the severity that its text names."""
    severity = next(
        (severity for pattern, severity in SEVERITIES if pattern.search(text)), Severity.INFO
    )
    return Line(text=redact(text), severity=severity)


# Logs that viewers follow


async def _find_discovered(
    kuberay: KubeRaySettings, name: str, saved: SavedState
) -> ClusterSettings | None:
    """Return a cluster of KubeRay with its own token where it has one. Raises `DashboardError`."""
    if not saved.address:
        return None
    cluster = kuberay.cluster_settings(name, saved.address)
    if not (kuberay.cluster_tokens and saved.token_secret):
        return cluster
    # Imported here, because aiohttp is installed for clusters of KubeRay only.
    from almenara_kube.client import connect
    from almenara_ray.cluster_tokens import read_token

    async with connect(kuberay.kube_context) as api:
        token = await read_token(api, name.partition(".")[0], saved.token_secret)
    return msgspec.structs.replace(cluster, token=token)


class JobLogs:
    """The log stream `job-logs`: the log of a job while it is written."""

    name = "job-logs"

    def __init__(self, settings: RaySettings, context: Context) -> None:
        self.settings, self.context = settings, context

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        """Yield the last lines, then new lines as they are written, until the job ends."""
        name = filters.get("namespace", "")
        cluster = await self._find_cluster(name)
        if cluster is None:
            raise NotFound(
                f"The cluster {name!r} does not exist, so that its logs cannot be read; the end of"
                " a failed job's log is in its events."
            )
        async with DashboardClient(cluster, self.settings) as client:
            job = await self._read_job(client, filters.get("name", ""))
            if job.driver:
                raise NotFound("Ray has no log of a driver that was not submitted as a job.")
            async for batch in self._follow(client, job):
                yield batch

    async def _find_cluster(self, name: str) -> ClusterSettings | None:
        """Return a cluster that is configured or currently followed. No other address is ever
        requested, whatever name a viewer enters."""
        for cluster in self.settings.clusters:
            if cluster.name == name:
                return cluster
        for kuberay in self.settings.kuberay:
            stored = decode_values(await self.context.load(kuberay.source)).get(name)
            with contextlib.suppress(msgspec.MsgspecError):
                if stored is not None:
                    saved = msgspec.msgpack.decode(stored, type=SavedState)
                    return await _find_discovered(kuberay, name, saved)
        return None

    async def _read_job(self, client: DashboardClient, name: str) -> Job:
        job: Job | None = None
        with contextlib.suppress(MissingError):
            job = parse_job(decode_json(await client.get("job", job=name)))
        if job is None:
            raise NotFound(
                "Ray no longer knows this job; the end of a failed job's log is in its last event."
            )
        return job

    async def _follow(self, client: DashboardClient, job: Job) -> AsyncIterator[Sequence[Line]]:
        if job.status in FINISHED:
            text = clean_text(await _fetch_end(client, job, VISIBLE_LINES))
            yield _make_lines(text.split("\n"))
            return
        while not job.node_id:
            yield []
            await sleep(RETRY)
            job = await self._read_job(client, job.id)
        read = self._stream if await _returns_plain_text(client) else self._reread
        async for batch in read(client, job):
            yield batch

    async def _stream(self, client: DashboardClient, job: Job) -> AsyncIterator[Sequence[Line]]:
        rest, decoder = "", getincrementaldecoder("utf-8")("replace")
        parts = client.stream(
            "log_stream", node_id=job.node_id, filename=log_name(job.id), lines=VISIBLE_LINES,
            interval=0.5, format="text",
        )  # fmt: skip
        async for part in parts:
            complete, _, rest = (rest + decoder.decode(part)).rpartition("\n")
            rest = keep_line_end(rest)
            if complete:
                yield [make_line(line) for line in clean_text(complete).split("\n")]
        if rest:
            yield [make_line(clean_text(rest))]

    async def _reread(self, client: DashboardClient, job: Job) -> AsyncIterator[Sequence[Line]]:
        """Follow the log of a Ray that cannot stream it: read the whole, and yield what is new."""
        known = 0
        while True:
            has_ended = job.status in FINISHED
            text = parse_log(await client.get("job_logs", job=job.id))
            # An unfinished line is yielded once it is complete.
            complete = len(text) if has_ended else text.rfind("\n") + 1
            if complete > known:
                yield _make_lines(clean_text(text[known:complete]).split("\n"))
                known = complete
            if has_ended:
                return
            await sleep(RETRY)
            job = await self._read_job(client, job.id)


def _make_lines(lines: Sequence[str]) -> list[Line]:
    return [make_line(line) for line in lines[-VISIBLE_LINES:]]
