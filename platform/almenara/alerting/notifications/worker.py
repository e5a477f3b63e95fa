"""The worker of one receiver: delivers what waits for it, in order, within its rate."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec
import structlog

from almenara.alerting.notifications.content import make_notification, render
from almenara.alerting.notifications.delivery import deliver
from almenara.alerting.notifications.digest import make_digest
from almenara.alerting.notifications.receivers import Receiver
from almenara.alerting.notifications.records import Entry
from almenara.clock import monotonic, sleep
from almenara.errors import describe_error
from almenara.hookspecs import Alert, DeliveryError, DeliveryRefusedError, Notification
from almenara.sdk import Backoff

log = structlog.get_logger(__name__)

BACKOFF_FIRST: Final = 2.0
BACKOFF_LIMIT: Final = 300.0
MAX_RETRY_AFTER: Final = 3600.0
MAX_CHARTS: Final = 3
"""Alerts of a notification with a chart."""
MAX_POINTS: Final = 500
ReadPoints = Callable[[Alert], Sequence[tuple[int, float]]]
"""Returns the last samples of the metric of an alert."""
DIGEST_FROM: Final = 5
"""Waiting groups beyond which they are combined, once the rate is exhausted."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an attempt to deliver."""

    receiver: str
    notification: Notification
    entries: Mapping[str, Entry]
    """What was delivered, by group: several in a digest."""
    error: str = ""
    is_refused: bool = False
    reference: str | None = None
    """What the notifier returned; None leaves what is known unchanged."""


class Outbox(Protocol):
    """What a worker delivers, and reports to: the dispatcher."""

    def committed(self) -> AbstractAsyncContextManager[object]:
        """A context in which the outbox has durable entries only."""

    def waiting(self, receiver: str) -> Mapping[str, Entry]:
        """The entries of a receiver by group, the oldest first."""

    def labels(self, group: str) -> Mapping[str, str]:
        """The labels of a group."""

    def reference(self, receiver: str, group: str) -> str:
        """What the notifier has returned for a group."""

    async def report(self, outcome: Outcome) -> None:
        """Note a result; return once it is durable."""


class Bucket:
    """A token bucket: `rate` tokens per minute, at most `burst` of them."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate / 60, burst
        self._tokens, self._filled_at = float(burst), monotonic()

    def take(self) -> float:
        """Take a token; return 0, or the seconds after which there is one."""
        moment = monotonic()
        self._tokens = min(self._burst, self._tokens + (moment - self._filled_at) * self._rate)
        self._filled_at = moment
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Worker:
    """Delivers to one receiver, one notification after another."""

    def __init__(
        self, receiver: Receiver, outbox: Outbox, base_url: str, read_points: ReadPoints
    ) -> None:
        self.receiver, self.outbox, self.base_url = receiver, outbox, base_url
        self._read_points = read_points
        self._has_work = asyncio.Event()
        self._bucket = Bucket(receiver.settings.rate_limit, receiver.settings.burst)
        self._backoff = Backoff(BACKOFF_FIRST, BACKOFF_LIMIT, jitter=0.2)
        self._is_throttled = False
        self._retry_after = 0.0

    def wake(self) -> None:
        """Deliver what waits."""
        self._has_work.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self.outbox.waiting(self.receiver.name):
                if (wait := self._bucket.take()) > 0:
                    self._is_throttled = True
                    await sleep(wait)
                    continue
                outcome = await self._deliver_next()
                if outcome is not None:
                    await self.outbox.report(outcome)
                    await sleep(self._wait_after(outcome))
            self._is_throttled = False

    def _wait_after(self, outcome: Outcome) -> float:
        if not outcome.error or outcome.is_refused:
            self._backoff.succeeded()
            return 0.0
        return max(self._backoff.failed(), self._retry_after)

    async def _deliver_next(self) -> Outcome | None:
        async with self.outbox.committed():
            picked = self._pick()
        if picked is None:
            return None
        notification, entries = picked
        self._retry_after = 0.0
        reference: str | None = None
        error, is_refused = "", False
        try:
            delivery = await deliver(
                self.receiver.notifier, notification, self.receiver.settings.timeout
            )
            reference = delivery.reference if len(entries) == 1 else None
        except DeliveryRefusedError as failure:
            error, is_refused = describe_error(failure), True
        except DeliveryError as failure:
            error = describe_error(failure)
            self._retry_after = min(failure.retry_after or 0.0, MAX_RETRY_AFTER)
        return Outcome(
            receiver=self.receiver.name,
            notification=notification,
            entries=entries,
            error=error,
            is_refused=is_refused,
            reference=reference,
        )

    def _pick(self) -> tuple[Notification, Mapping[str, Entry]] | None:
        """The next notification with its entries: of the oldest group, or a digest of all."""
        name = self.receiver.name
        waiting = dict(self.outbox.waiting(name))
        if not waiting:
            return None
        capabilities = self.receiver.kind.capabilities
        if self._is_throttled and len(waiting) > DIGEST_FROM and not capabilities.tracks_groups:
            names = [self._name(group) for group in waiting]
            digest = make_digest(waiting, names, name, capabilities.max_alerts, self.base_url)
            return digest, waiting
        group, entry = next(iter(waiting.items()))
        notification = make_notification(
            entry,
            name,
            group,
            self.outbox.labels(group),
            self.outbox.reference(name, group),
            self.base_url,
        )
        if capabilities.charts:
            notification = self._add_points(notification)
        return render(notification, self.receiver.content, entry.note), {group: entry}

    def _add_points(self, notification: Notification) -> Notification:
        """The notification with the samples of its first alerts that compare a metric."""
        alerts = list(notification.alerts)
        with_metric = [place for place, alert in enumerate(alerts) if alert.metric]
        for place in with_metric[:MAX_CHARTS]:
            points = tuple(self._read_points(alerts[place])[-MAX_POINTS:])
            alerts[place] = msgspec.structs.replace(alerts[place], points=points)
        return msgspec.structs.replace(notification, alerts=tuple(alerts))

    def _name(self, group: str) -> str:
        labels = self.outbox.labels(group)
        return " ".join(f"{name}={text}" for name, text in labels.items()) or "alerts"
