"""Which consumers are stalled: since when, with an event for each stall and each recovery.

A consumer is stalled when it has work and neither receives nor acknowledges any. It stays stalled
until its backlog falls, or until it has received or acknowledged other messages for as long as it
takes to be stalled: a single redelivery is no recovery, and one that keeps up with what arrives is
not stalled, however much waits. An ephemeral one whose client has ended is not stalled: the server
deletes it. Neither is one that is paused: what waits meanwhile begins to wait when it is resumed.
"""

import time
from collections.abc import Collection, Mapping
from typing import Final

import msgspec
from nats.js.api import ConsumerInfo

from almenara.hookspecs import Context
from almenara.sdk import now
from almenara.signals import Event, Resource, Severity
from almenara.units import SECOND
from almenara_nats.kinds import CONSUMER, NO_CLIENT, STALLED

STORE_KEY: Final = "stalled consumers"
RECOVERED_SHARE: Final = 0.9
"""The share of its highest backlog to which that of a stalled consumer must fall."""

Key = tuple[str, str]
"""Stream and name of a consumer."""


class Progress(msgspec.Struct):
    """How far a consumer is, and since when, by the monotonic clock."""

    delivered: int
    acknowledged: int
    since: float
    stream: tuple[int, int] = (0, 0)
    """The last message in the stream that was delivered, and the first that is not acknowledged:
    redeliveries change neither."""
    moved_at: float | None = None
    """When `stream` was last found changed."""
    moving_since: float = 0.0
    """Since when it has changed again and again."""


class Stall(msgspec.Struct):
    """A consumer that is stalled."""

    since: int
    """When it last received or acknowledged a message, in microseconds."""
    highest: int
    """The highest backlog since then."""


class ConsumerHealth:
    """Judges consumers from one list to the next, also over restarts."""

    def __init__(self, stalled_after: float) -> None:
        self._stalled_after = stalled_after
        self._progress: dict[Key, Progress] = {}
        self._stalls: dict[Key, Stall] = {}
        self._saved = b""
        self.events: list[Event] = []
        """What has to be published before `save`."""

    async def restore(self, context: Context) -> None:
        """Load the stalls of an earlier run, so that they are no news."""
        stored = await context.load(STORE_KEY)
        try:
            entries = msgspec.msgpack.decode(stored, type=list[tuple[Key, Stall]]) if stored else []
        except msgspec.MsgspecError:
            entries = []
        self._stalls = dict(entries)

    async def save(self, context: Context) -> None:
        """Store the stalls, once their events are durable."""
        self.events.clear()
        state = msgspec.msgpack.encode(list(self._stalls.items()))
        if state != self._saved:
            await context.save(STORE_KEY, state)
            self._saved = state

    def reset(self) -> None:
        """Forget the progress: how far the consumers are is unknown for a while."""
        self._progress.clear()

    def forget(self, stream: str, name: str) -> None:
        """Forget the progress of one consumer, for the same reason."""
        self._progress.pop((stream, name), None)

    def keep_only(self, keys: Collection[Key]) -> None:
        """Forget the consumers that do not exist any more."""
        for known in (self._progress, self._stalls):
            for key in known.keys() - keys:
                del known[key]

    def describe(self, stream: str, info: ConsumerInfo, figures: Mapping[str, int]) -> Resource:
        """Return the resource of a consumer, and note the event of a stall or a recovery."""
        key = stream, info.name
        backlog = figures["pending"] + figures["ack_pending"]
        idle = self._measure_idle(key, info, figures)
        if info.paused:
            self._stalls.pop(key, None)
        stall = self._stalls.get(key)
        is_abandoned = stall is None and idle >= self._stalled_after and has_no_client(info)
        if info.paused or is_abandoned:
            pass
        elif stall is None and idle >= self._stalled_after:
            stall = self._stalls[key] = Stall(now() - int(idle * SECOND), backlog)
            self._progress[key].stream, self._progress[key].moved_at = _read_stream(info), None
            self._note(key, STALLED, stall, backlog)
        elif stall is not None and (
            (not idle and backlog <= stall.highest * RECOVERED_SHARE) or self._is_moving(key, info)
        ):
            self._note(key, "recovered", stall, backlog)
            del self._stalls[key]
            stall = None
        status, severity = "ok", Severity.INFO
        state: dict[str, str | int] = {"ack_policy": str(info.config.ack_policy or "")}
        if info.paused:
            status = "paused"
        elif is_abandoned:
            status = NO_CLIENT
        elif stall is not None:
            stall.highest = max(stall.highest, backlog)
            status, severity = STALLED, Severity.WARN
            state["since"] = stall.since
        return Resource(
            kind=CONSUMER, namespace=stream, name=info.name,
            status=status, severity=severity, state=state,
        )  # fmt: skip

    def _measure_idle(self, key: Key, info: ConsumerInfo, figures: Mapping[str, int]) -> float:
        """Return the seconds for which a consumer with work has made no progress. One message that
        takes long does not stall it: others are delivered and acknowledged."""
        delivered = info.delivered.consumer_seq if info.delivered else 0
        acknowledged = info.ack_floor.consumer_seq if info.ack_floor else 0
        # The floor stays at the oldest message in work, while later ones are acknowledged.
        acknowledged += delivered - figures["ack_pending"]
        moment, progress = time.monotonic(), self._progress.get(key)
        has_work = figures["pending"] or figures["ack_pending"]
        if (
            progress is not None
            and has_work
            and not info.paused
            and (progress.delivered, progress.acknowledged) == (delivered, acknowledged)
        ):
            return moment - progress.since
        if progress is None:
            stream = _read_stream(info)
            progress = self._progress[key] = Progress(delivered, acknowledged, moment, stream)
        progress.delivered, progress.acknowledged = delivered, acknowledged
        progress.since = moment
        return 0.0

    def _is_moving(self, key: Key, info: ConsumerInfo) -> bool:
        """Whether a stalled consumer has received or acknowledged other messages for as long as it
        takes to be stalled."""
        progress, moment, stream = self._progress[key], time.monotonic(), _read_stream(info)
        if stream == progress.stream:
            return False
        progress.stream = stream
        if progress.moved_at is None or moment - progress.moved_at >= self._stalled_after:
            progress.moving_since = moment
        progress.moved_at = moment
        return moment - progress.moving_since >= self._stalled_after

    def _note(self, key: Key, change: str, stall: Stall, backlog: int) -> None:
        stream, name = key
        self.events.append(
            Event(
                id=f"{stream}/{name}/{change}/{stall.since}",
                source=f"nats/{stream}",
                origin=f"nats/{stream}",
                type=f"{CONSUMER}.{change}",
                subject=name,
                time=now(),
                severity=Severity.WARN if change == STALLED else Severity.INFO,
                data={
                    "message": f"{name} of {stream}: {backlog:,} messages wait",
                    "stream": stream, "backlog": backlog, "since": stall.since,
                },
                attributes={"namespace": stream},
            )
        )  # fmt: skip


def _read_stream(info: ConsumerInfo) -> tuple[int, int]:
    return (
        info.delivered.stream_seq if info.delivered else 0,
        info.ack_floor.stream_seq if info.ack_floor else 0,
    )


def has_no_client(info: ConsumerInfo) -> bool:
    """Whether a consumer is ephemeral, and no client reads it at the moment."""
    if info.config.durable_name:
        return False
    return not (info.push_bound if info.config.deliver_subject else info.num_waiting)
