"""The source: every check on its own, and an event for each change of its state."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import every, now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_http.client import Answer, ask
from almenara_http.settings import CheckSettings, HttpSettings

KIND: Final = "http.check"
DAY: Final = 86_400.0
Status = Literal["up", "slow", "down"]
SEVERITIES: Final[dict[Status, Severity]] = {
    "up": Severity.INFO,
    "slow": Severity.WARN,
    "down": Severity.ERROR,
}


class Known(msgspec.Struct):
    """What is remembered of a check, over restarts as well."""

    status: Status | None = None
    since: int = 0
    """Microseconds since the epoch."""
    failures: int = 0
    expiring: float | None = None
    """The end of the certificate that was warned of, in seconds since the epoch."""


class HttpSource:
    """Asks for every URL, each at its own pace; a slow one delays no other."""

    name = "http"

    def __init__(self, settings: HttpSettings, context: Context) -> None:
        self.settings, self.context = settings, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Check until cancelled."""
        room = asyncio.Semaphore(self.settings.at_once)
        report.recovered()
        names = {check.name for check in self.settings.checks}
        await publish(
            [
                Resource(kind=KIND, name=name, deleted=True)
                for _, _, name in await self.context.known_resources(self.name, KIND)
                if name not in names
            ]
        )
        async with asyncio.TaskGroup() as group:
            for check in self.settings.checks:
                group.create_task(self._follow(check, publish, room))

    async def _follow(
        self, check: CheckSettings, publish: Publish, room: asyncio.Semaphore
    ) -> None:
        known = await self._load(check)
        async for _ in every(check.every):
            async with room:
                answer = await ask(check)
            before = msgspec.structs.replace(known)
            signals = judge(check, known, answer)
            await publish(signals)
            # After the events are safe: one that is told again has the same id and is dropped.
            if known != before:
                await self.context.save(check.name, msgspec.json.encode(known))

    async def _load(self, check: CheckSettings) -> Known:
        stored = await self.context.load(check.name)
        try:
            return msgspec.json.decode(stored, type=Known) if stored else Known()
        except msgspec.MsgspecError:
            return Known()


def judge(check: CheckSettings, known: Known, answer: Answer) -> Sequence[Signal]:
    """What an answer means, given what is known; `known` is brought up to date."""
    moment = now()
    events: list[Event] = []
    known.failures = known.failures + 1 if answer.wrong is not None else 0
    status = _status(check, known, answer)
    if status != known.status:
        if known.status is not None or status == "down":
            events.append(_changed(check, known, status, answer, moment))
        known.status, known.since = status, moment
    if (warning := _expiring(check, known, answer, moment)) is not None:
        events.append(warning)
    samples = [Sample(kind=KIND, name=check.name, metric="up", value=float(status != "down"))]
    if answer.latency is not None:
        samples.append(
            Sample(kind=KIND, name=check.name, metric="latency", value=answer.latency, unit="s")
        )
    if answer.expires is not None:
        left = answer.expires - time.time()
        samples.append(
            Sample(kind=KIND, name=check.name, metric="tls_expires_in", value=left, unit="s")
        )
    return [_resource(check, known, answer), *samples, *events]


def _status(check: CheckSettings, known: Known, answer: Answer) -> Status:
    if answer.wrong is not None:
        # A single failure changes nothing yet; a check that was never seen is down at once.
        if known.status is not None and known.failures < check.attempts:
            return known.status
        return "down"
    return "slow" if (answer.latency or 0) > check.slow_after else "up"


def _resource(check: CheckSettings, known: Known, answer: Answer) -> Resource:
    status = known.status or "down"
    state = {
        "url": check.url,
        "method": check.method,
        "code": answer.code,
        "reason": answer.wrong,
        "failures": known.failures,
        "since": known.since,
        "bytes": answer.size,
    }
    return Resource(
        kind=KIND, name=check.name, status=status, severity=SEVERITIES[status], state=state
    )


def _changed(
    check: CheckSettings, known: Known, status: Status, answer: Answer, moment: int
) -> Event:
    return Event(
        # What it changed from, and since when: the same however often this change is told.
        id=f"{check.name}/{known.status}/{known.since}/{status}",
        source=f"http/{check.name}",
        type=f"{KIND}.{status}",
        subject=check.name,
        time=moment,
        severity=SEVERITIES[status],
        data={
            "url": check.url,
            "from": known.status,
            "reason": answer.wrong or f"answered in {answer.latency or 0:.3f} s",
            "code": answer.code,
        },
    )


def _expiring(check: CheckSettings, known: Known, answer: Answer, moment: int) -> Event | None:
    if answer.expires is None or answer.expires == known.expiring:
        return None
    left = answer.expires - moment / 1_000_000
    if left > check.expiry_days * DAY:
        return None
    known.expiring = answer.expires
    return Event(
        id=f"{check.name}/expiring/{answer.expires:.0f}",
        source=f"http/{check.name}",
        type=f"{KIND}.tls_expiring",
        subject=check.name,
        time=moment,
        severity=Severity.WARN,
        data={"url": check.url, "reason": f"its certificate ends in {left / DAY:.1f} days"},
    )
