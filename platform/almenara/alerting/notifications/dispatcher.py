"""The dispatcher: follows alerts on the bus, and has receivers notified of them.

Groups, outbox, health of receivers and the position in the log are committed together, as the
state of an owner on the bus, with the events about deliveries. A delivery starts only once what it
reports is durable, and its result is durable before the next one of the same receiver starts. So
after a crash at any moment nothing is lost, and at most the notifications that were under way are
delivered again, with the same version.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import msgspec
import structlog

from almenara.alerting.notifications.alert_events import AlertChange, read_change
from almenara.alerting.notifications.groups import Changes, Groups
from almenara.alerting.notifications.health import KIND, SOURCE, ReceiverHealth
from almenara.alerting.notifications.receivers import Receiver
from almenara.alerting.notifications.records import Entry
from almenara.alerting.notifications.routes import Route
from almenara.alerting.notifications.testing import send_test
from almenara.alerting.notifications.worker import Outcome, ReadPoints, Worker
from almenara.bus import MARKER, Bus, Record
from almenara.clock import now, sleep
from almenara.errors import NotFound, describe_error
from almenara.hookspecs import ResourceKey
from almenara.leases import Publisher
from almenara.sdk import Backoff, run_in_task
from almenara.signals import Resource, Signal
from almenara.units import SECOND

log = structlog.get_logger(__name__)

OWNER: Final = SOURCE
"""The owner of the stored rows."""
CURSOR: Final = "cursor"
CURSOR_STEP: Final = 5_000
"""Signals without an alert after which the position is stored."""
MAX_WAIT: Final = 60.0
QUEUED_BATCHES: Final = 20


class Batch(msgspec.Struct, frozen=True):
    """The alerts in a part of the log, up to a sequence."""

    cursor: int
    changes: Sequence[AlertChange]


class NotificationBus(Bus, Protocol):
    """What the dispatcher needs from the bus."""

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]: ...


Report = tuple[Outcome, "asyncio.Future[None]"]


class Dispatcher:
    """Notifies receivers of the alerts on the bus. Create it before sources run."""

    def __init__(
        self,
        bus: NotificationBus,
        receivers: Mapping[str, Receiver],
        root: Route,
        *,
        fallback_after: float,
        base_url: str = "",
        open_alerts: Callable[[], Iterable[Resource]] = tuple,
        read_points: ReadPoints = lambda _: (),
    ) -> None:
        self.bus, self.receivers, self.base_url = bus, receivers, base_url
        self.publisher: Publisher = bus
        """What it publishes with: under the lease of the replica that notifies."""
        self._root, self._fallback_after = root, fallback_after
        self._open_alerts, self._read_points = open_alerts, read_points
        self._first = bus.last_sequence
        self.problem = ""
        """Why notifications are not processed at the moment; empty while they are."""
        self._reset()

    def _reset(self) -> None:
        receivers = self.receivers
        self._groups = Groups(
            self._root,
            {name: receiver.traits for name, receiver in receivers.items()},
            lambda name, change: receivers[name].may_read(change),
        )
        self._health = {name: ReceiverHealth(receiver) for name, receiver in receivers.items()}
        self._workers = {
            name: Worker(receiver, self, self.base_url, self._read_points)
            for name, receiver in receivers.items()
        }
        self._inbox: asyncio.Queue[Batch | Report] = asyncio.Queue(QUEUED_BATCHES)
        self._lock = asyncio.Lock()
        self._published: dict[str, Resource] = {}
        self.cursor = self._stored_cursor = self._first

    async def run(self) -> None:
        """Follow the log and deliver, until cancelled. After an error it continues from what is
        durable: a failing notification must not stop Almenara, and Almenara not notifications."""
        backoff = Backoff(1.0, 60.0)
        self._reset()
        while True:
            try:
                # An earlier attempt may have queued a commit, which the state read below must have.
                await self.publisher.publish((), SOURCE, [MARKER])
                await self._delete_removed()
                if not self.receivers:
                    return
                await run_in_task(self._run_once())
            except Exception as error:
                self.problem = describe_error(error)
                log.exception("notifications failed and are restarted")
                await sleep(backoff.failed())
                self._reset()

    @property
    def is_current(self) -> bool:
        """Whether alerts are processed without a delay."""
        behind = self.bus.distance(self.cursor, self.bus.last_sequence)
        return not self.problem and behind < CURSOR_STEP

    async def _run_once(self) -> None:
        await self._restore()
        self.problem = ""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(self.cursor), name="alerts")
            for name, worker in self._workers.items():
                group.create_task(worker.run(), name=f"receiver {name}")
            group.create_task(self._process(), name="notifications")

    # -- for workers

    @asynccontextmanager
    async def committed(self) -> AsyncIterator[None]:
        async with self._lock:
            yield

    def waiting(self, receiver: str) -> Mapping[str, Entry]:
        return self._groups.outbox[receiver]

    def labels(self, group: str) -> Mapping[str, str]:
        return self._groups.labels(group)

    def reference(self, receiver: str, group: str) -> str:
        return self._groups.reference(receiver, group)

    async def report(self, outcome: Outcome) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._inbox.put((outcome, done))
        await done

    # -- for users

    async def send_test(self, name: str) -> None:
        """Deliver a test notification to a receiver, past the outbox.

        Raises `NotFound`, and `DeliveryError` where the receiver does not accept it.
        """
        if (receiver := self.receivers.get(name)) is None:
            raise NotFound(f"there is no receiver named {name}")
        await send_test(receiver, self.base_url)

    # -- inside

    async def _delete_removed(self) -> None:
        """Publish receivers as deleted that are not in the configuration any more."""
        known = await self.bus.known_resources(SOURCE, KIND)
        moment = now()
        deleted = [
            Resource(kind=KIND, name=name, time=moment, deleted=True)
            for _, _, name in known
            if name not in self.receivers
        ]
        await self.publisher.publish(deleted, SOURCE)

    async def _restore(self) -> None:
        rows = await self.bus.load_all(OWNER)
        moment = now()
        self._groups.load(rows, moment)
        for health in self._health.values():
            health.load(rows)
        if CURSOR in rows:
            self.cursor = self._stored_cursor = int(rows[CURSOR])
        else:
            for resource in self._open_alerts():
                if (change := read_change(resource, self._first)) is not None:
                    self._groups.apply(change, moment)
        removed: Changes = {
            key: None
            for key in rows
            if key.startswith("receiver/") and key.removeprefix("receiver/") not in self.receivers
        }
        await self._commit([], removed, is_first=True)

    async def _follow(self, cursor: int) -> None:
        async for records in self.bus.subscribe(cursor):
            await self._inbox.put(Batch(records[-1].sequence, _read_changes(records)))

    async def _process(self) -> None:
        """Apply what arrives and the passing of time, commit it, and wake the workers."""
        self._wake_workers()
        while True:
            items = await self._next_items()
            async with self._lock:
                moment = now()
                signals: list[Signal] = []
                changes: Changes = {}
                for item in items:
                    if isinstance(item, Batch):
                        self.cursor = item.cursor
                        for change in item.changes:
                            self._groups.apply(change, moment)
                    else:
                        self._note(item[0], moment, signals, changes)
                self._use_fallbacks(moment)
                self._groups.flush(moment)
                await self._commit(signals, changes)
            for item in items:
                if not isinstance(item, Batch) and not item[1].done():
                    item[1].set_result(None)
            self._wake_workers()

    async def _next_items(self) -> list[Batch | Report]:
        """Wait for the next items, or until something is due; then there may be none."""
        getting = asyncio.ensure_future(self._inbox.get())
        waiting = asyncio.ensure_future(sleep(self._seconds_until_due()))
        try:
            await asyncio.wait((getting, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # An item stays in the queue until `get` returns it, so cancelling loses none.
            getting.cancel()
            waiting.cancel()
            await asyncio.wait((getting, waiting))
        items: list[Batch | Report] = [] if getting.cancelled() else [getting.result()]
        while not self._inbox.empty():
            items.append(self._inbox.get_nowait())
        return items

    def _seconds_until_due(self) -> float:
        """Seconds until a group is to be flushed or a fallback takes over."""
        moments = [
            self._groups.next_flush(),
            *(
                health.fallback_at(self._fallback_after)
                for name, health in self._health.items()
                if name not in self._groups.failing
            ),
        ]
        # What has become due since it was looked at, during a slow commit, must not wait.
        due = [max(moment - now(), 0) / SECOND for moment in moments if moment is not None]
        return min([MAX_WAIT, *due])

    def _note(self, outcome: Outcome, moment: int, signals: list[Signal], changes: Changes) -> None:
        health = self._health[outcome.receiver]
        signals += health.note(outcome, moment)
        changes |= health.save()
        for group, entry in outcome.entries.items():
            if outcome.is_refused:
                self._groups.refuse(outcome.receiver, group, entry, moment)
            elif not outcome.error:
                self._groups.confirm(outcome.receiver, group, entry, outcome.reference)
        if outcome.error:
            log.warning(
                "a notification was not delivered",
                receiver=outcome.receiver,
                reason=outcome.error,
                is_refused=outcome.is_refused,
            )

    def _use_fallbacks(self, moment: int) -> None:
        """Let fallbacks take over from receivers that have been failing, and end that."""
        for name, health in self._health.items():
            at = health.fallback_at(self._fallback_after)
            is_dead = at is not None and at <= moment
            if is_dead != (name in self._groups.failing):
                self._groups.set_failing(name, health.describe_failure() if is_dead else "", moment)

    async def _commit(
        self, signals: list[Signal], changes: Changes, *, is_first: bool = False
    ) -> None:
        changes = {**self._groups.take_changes(), **changes}
        resources = self._changed_resources()
        is_far = self.bus.distance(self._stored_cursor, self.cursor) >= CURSOR_STEP
        if not (changes or signals or resources or is_far or is_first):
            return
        changes[CURSOR] = str(self.cursor).encode()
        self._stored_cursor = self.cursor
        await self.publisher.publish(
            [*signals, *resources],
            SOURCE,
            [(OWNER, key, value) for key, value in changes.items()],
        )

    def _changed_resources(self) -> list[Resource]:
        """The receivers whose state differs from what was published last."""
        moment = now()
        changed = []
        for name, health in self._health.items():
            resource = health.resource(len(self._groups.outbox[name]), moment)
            before = self._published.get(name)
            if before is None or msgspec.structs.replace(before, time=moment) != resource:
                self._published[name] = resource
                changed.append(resource)
        return changed

    def _wake_workers(self) -> None:
        for name, worker in self._workers.items():
            if self._groups.outbox[name]:
                worker.wake()


def _read_changes(records: Sequence[Record]) -> list[AlertChange]:
    changes = (read_change(record.signal, record.sequence) for record in records)
    return [change for change in changes if change is not None]
