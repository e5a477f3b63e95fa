"""The source: every check on its own, and an event for each change of its status."""

import asyncio
import heapq
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, monotonic, now, redact_urls, sleep
from almenara.sdk.http import Resolver
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.units import DAY, SECOND
from almenara_http.certificates import Validity
from almenara_http.client import Outcome, perform_check
from almenara_http.maintenance import maintenance_end
from almenara_http.settings import CheckSettings, HttpSettings

KIND: Final = "http.check"
HOST: Final = "http.host"
"""Kind of a host that several checks have in common."""
SCHEDULE: Final = "schedule"
JITTER: Final = 0.1
"""Share by which an interval varies, so that many checks are not performed at once."""
START_SPACING: Final = 0.005
"""Seconds between the first requests of two checks."""
LATE_SHARE: Final = 0.5
"""Share of its interval by which a check may start late before that is reported."""
FAST_SHARE: Final = 0.8
"""Share of `slow_after` below which a slow check responds fast again, unless `fast_below` is set: a
latency around one threshold would change the status again and again."""
ALERT_DAYS: Final = 7.0
"""Days before the expiry of a certificate from which on there is an alert."""
EXPIRES_SOON: Final = "expires soon"
Status = Literal["up", "slow", "down", "maintenance"]
SEVERITIES: Final[dict[Status, Severity]] = {
    "up": Severity.INFO,
    "slow": Severity.WARN,
    "down": Severity.ERROR,
    "maintenance": Severity.INFO,
}


class CheckState(msgspec.Struct):
    """What is remembered of a check, also over restarts."""

    status: Status | None = None
    since: int = 0
    """Microseconds since the epoch."""
    failures: int = 0
    """Failures in a row."""
    successes: int = 0
    """Expected responses in a row while the check is down."""
    deviations: int = 0
    """Successful responses in a row that were slow while the check is up, or fast while it is
    slow."""
    expiring: float | None = None
    """The expiry that a warning was published for, in seconds since the epoch."""
    validity: Validity | None = None
    """That of the certificate that expires first, as of the last response."""


class ScheduledCheck(msgspec.Struct, order=True):
    """A check and when its next request is due, by the monotonic clock."""

    due: float
    number: int
    """Its place in the settings."""


class HttpSource:
    """Performs every check at its own interval; a slow one delays no other."""

    name = "http"

    def __init__(self, settings: HttpSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self._states: dict[str, CheckState] = {}
        self._snapshots = Snapshots()
        self._hosts = group_by_host(settings.checks)
        self._delays: dict[str, float] = {}
        """Seconds by which the last request of a check started late, where that is too much."""

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Check until cancelled."""
        health = HealthAggregator(report)
        health.clear(SCHEDULE)
        checks = self.settings.checks
        # What an earlier run has not published and saved did not happen.
        self._states, self._delays, self._snapshots = {}, {}, Snapshots()
        await publish(await self._delete_unconfigured())
        started = monotonic()
        schedule = [
            ScheduledCheck(started + min(number * START_SPACING, check.every), number)
            for number, check in enumerate(checks)
        ]
        heapq.heapify(schedule)
        resolver = Resolver()
        async with asyncio.TaskGroup() as group:
            # A task each would be thousands, nearly all of which wait.
            for number in range(min(self.settings.concurrency, len(checks))):
                worker = self._work(schedule, publish, health, resolver)
                group.create_task(worker, name=f"checks {number}")

    async def _delete_unconfigured(self) -> Sequence[Signal]:
        known = [
            key for kind in (KIND, HOST)
            for key in await self.context.known_resources(self.name, kind)
        ]  # fmt: skip
        self._snapshots.load(Resource(kind=kind, name=name) for kind, _, name in known)
        names = {KIND: {check.name for check in self.settings.checks}, HOST: self._hosts.keys()}
        return [
            signal
            for key in known
            if key[2] not in names[key[0]]
            for signal in self._snapshots.remove(key)
        ]

    async def _work(
        self,
        schedule: list[ScheduledCheck],
        publish: Publish,
        health: HealthAggregator,
        resolver: Resolver,
    ) -> None:
        """Perform the check that is due next, again and again. `schedule` is a heap of the checks
        that no worker has taken."""
        while True:
            scheduled = heapq.heappop(schedule)
            check = self.settings.checks[scheduled.number]
            await sleep(max(scheduled.due - monotonic(), 0.0))
            started = monotonic()
            self._note_delay(check, started - scheduled.due, health)
            await self._perform(check, publish, resolver)
            interval = check.every * (1 + random.uniform(-JITTER, JITTER))  # nosec B311 # spreads requests, guards nothing
            scheduled.due = max(started + interval, monotonic())
            heapq.heappush(schedule, scheduled)

    async def _perform(self, check: CheckSettings, publish: Publish, resolver: Resolver) -> None:
        state = self._states.get(check.name)
        is_first = state is None
        if state is None:
            state = self._states[check.name] = await self._load(check)
        outcome = await perform_check(check, resolver)
        before = msgspec.structs.replace(state)
        resource, *others = evaluate(check, state, outcome)
        host = host_of(check)
        if host in self._hosts:
            resource = msgspec.structs.replace(resource, state={**resource.state, "host": host})
            if is_first or state.status != before.status:
                others += self._update_host(host)
        await publish([*self._snapshots.update(resource), *others])
        # Saved once the events are durable: published again, they have the same ids.
        if state != before:
            await self.context.save(check.name, msgspec.json.encode(state))

    def _update_host(self, host: str) -> Sequence[Signal]:
        """Return what changes of a host: it is down while all of its checks are."""
        states = [self._states.get(name) for name in self._hosts[host]]
        if any(state is None or state.status is None for state in states):
            # After a restart it stays what it was until every check is known.
            return []
        down = sum(state is not None and state.status == "down" for state in states)
        status: Status = "down" if down == len(states) else "up"
        return self._snapshots.update(
            Resource(
                kind=HOST, name=host, status=status, severity=SEVERITIES[status],
                state={"checks": len(states), "down": down},
            )
        )  # fmt: skip

    def _note_delay(self, check: CheckSettings, delay: float, health: HealthAggregator) -> None:
        if delay > check.every * LATE_SHARE:
            self._delays[check.name] = delay
        else:
            self._delays.pop(check.name, None)
        if self._delays:
            health.note(
                SCHEDULE,
                f"{len(self._delays)} checks start late, as {self.settings.concurrency} others are"
                " in progress; raise plugins.http.concurrency or the intervals (every)",
            )
        else:
            health.clear(SCHEDULE)

    async def _load(self, check: CheckSettings) -> CheckState:
        stored = await self.context.load(check.name)
        try:
            return msgspec.json.decode(stored, type=CheckState) if stored else CheckState()
        except msgspec.MsgspecError:
            return CheckState()


def group_by_host(checks: Sequence[CheckSettings]) -> dict[str, list[str]]:
    """Return the names of the checks of each host that has several."""
    hosts: dict[str, list[str]] = {}
    for check in checks:
        hosts.setdefault(host_of(check), []).append(check.name)
    return {host: names for host, names in hosts.items() if host and len(names) > 1}


def host_of(check: CheckSettings) -> str:
    """Return the name of the host of a check."""
    return urlsplit(check.url).hostname or ""


def evaluate(
    check: CheckSettings, state: CheckState, outcome: Outcome
) -> tuple[Resource, *tuple[Signal, ...]]:
    """The resource, samples and events of an outcome, given the state of the check, which is
    updated."""
    moment = now()
    events: list[Event] = []
    until = maintenance_end(check.maintenance, moment) if check.maintenance else None
    status = _next_status(check, state, outcome) if until is None else "maintenance"
    if until is not None:
        # What happens within a window counts neither for nor against the check afterwards.
        state.failures = state.successes = state.deviations = 0
    if outcome.validity is not None or outcome.failure is None:
        state.validity = outcome.validity
    reason = _reason(outcome, until)
    if status != state.status:
        if state.status is not None or status == "down":
            events.append(_change_event(check, state, status, outcome, reason, moment))
        state.status, state.since = status, moment
    if (warning := _expiry_event(check, state, outcome, moment)) is not None:
        events.append(warning)
    signals: list[Signal] = []
    if status != "maintenance":
        # A window is left out of the availability.
        up = float(status != "down")
        signals.append(Sample(kind=KIND, name=check.name, metric="up", value=up))
    if outcome.latency is not None:
        signals.append(
            Sample(kind=KIND, name=check.name, metric="latency", value=outcome.latency, unit="s")
        )
    if outcome.validity is not None:
        left = outcome.validity.expires - moment / SECOND
        signals.append(
            Sample(kind=KIND, name=check.name, metric="tls_expires_in", value=left, unit="s")
        )
    signals += events
    return (_resource(check, state, outcome, reason, moment), *signals)


def _next_status(check: CheckSettings, state: CheckState, outcome: Outcome) -> Status:
    """The status after an outcome: every change but the first takes several in a row."""
    if outcome.failure is not None:
        state.failures, state.successes, state.deviations = state.failures + 1, 0, 0
        # A check without a status has never succeeded, so it is down at once.
        if state.status is not None and state.failures < check.failure_threshold:
            return state.status
        return "down"
    state.failures = 0
    observed = _observe_speed(check, state, outcome.latency or 0)
    if state.status == "down" and state.successes + 1 < check.success_threshold:
        state.successes += 1
        return "down"
    state.successes = 0
    if state.status not in ("up", "slow") or state.status == observed:
        state.deviations = 0
        return observed
    state.deviations += 1
    if state.deviations < check.slow_threshold:
        return state.status
    state.deviations = 0
    return observed


def _observe_speed(check: CheckSettings, state: CheckState, latency: float) -> Status:
    if state.status != "slow":
        return "slow" if latency > check.slow_after else "up"
    limit = check.slow_after * FAST_SHARE if check.fast_below is None else check.fast_below
    return "up" if latency < limit else "slow"


def _reason(outcome: Outcome, until: int | None) -> str | None:
    if until is None:
        return outcome.failure
    end = datetime.fromtimestamp(until // SECOND, UTC)
    failure = f"; {outcome.failure}" if outcome.failure is not None else ""
    return f"maintenance until {end:%Y-%m-%d %H:%M} UTC{failure}"


def _resource(
    check: CheckSettings, state: CheckState, outcome: Outcome, reason: str | None, moment: int
) -> Resource:
    status = state.status or "down"
    if status == "down" and reason is None:
        reason = (
            f"{state.successes} of {check.success_threshold} expected responses in a row"
            " (success_threshold)"
        )
    return Resource(
        kind=KIND,
        name=check.name,
        status=status,
        severity=SEVERITIES[status],
        state={
            "url": redact_urls(check.url),
            "method": check.method,
            "code": outcome.code,
            "version": outcome.version,
            "location": outcome.location,
            "redirects": outcome.redirects,
            "reason": reason,
            "failures": state.failures,
            "since": state.since,
            "bytes": outcome.size,
            **_certificate_state(state.validity, moment),
        },
    )


def _certificate_state(validity: Validity | None, moment: int) -> dict[str, Any]:
    """When the certificate expires, and whether that is soon enough for an alert."""
    if validity is None:
        return {}
    is_soon = moment / SECOND >= validity.expires_soon_at(ALERT_DAYS)
    return {
        "expires": round(validity.expires * SECOND),
        **({"certificate": EXPIRES_SOON} if is_soon else {}),
    }


def _change_event(
    check: CheckSettings,
    state: CheckState,
    status: Status,
    outcome: Outcome,
    reason: str | None,
    moment: int,
) -> Event:
    return Event(
        # Made from the status before and its time: the same however often it is published.
        id=f"{check.name}/{state.status}/{state.since}/{status}",
        source=f"http/{check.name}",
        type=f"{KIND}.{status}",
        subject=check.name,
        time=moment,
        severity=SEVERITIES[status],
        data={
            "url": redact_urls(check.url),
            "from": state.status,
            "reason": reason or f"responded in {outcome.latency or 0:.3f} s",
            "code": outcome.code,
        },
    )


def _expiry_event(
    check: CheckSettings, state: CheckState, outcome: Outcome, moment: int
) -> Event | None:
    validity = outcome.validity
    if validity is None or validity.expires == state.expiring:
        return None
    if moment / SECOND < validity.expires_soon_at(check.expiry_days):
        return None
    state.expiring = validity.expires
    days = (validity.expires * SECOND - moment) / DAY
    expiry = "has expired" if days < 0 else f"expires in {days:.1f} days"
    return Event(
        id=f"{check.name}/expiring/{validity.expires:.0f}",
        source=f"http/{check.name}",
        type=f"{KIND}.tls_expiring",
        subject=check.name,
        time=moment,
        severity=Severity.WARN,
        data={"url": redact_urls(check.url), "reason": f"a certificate of its chain {expiry}"},
    )
