"""Streams and consumers as resources with samples, so that a stuck consumer is visible.

A resource is `ok` only while the server answers. What it does not answer about becomes `unknown`,
with the time of the last answer and the reason, and publishes no samples.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog
from nats.js.api import ConsumerInfo, DiscardPolicy, PeerInfo, StreamInfo
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import Context, Publish, ResourceKey
from almenara.sdk import Snapshots, mark_unknown, now
from almenara.signals import UNKNOWN, Resource, Sample, Severity, Signal
from almenara_nats.client import Connection
from almenara_nats.consumer_health import ConsumerHealth
from almenara_nats.errors import PermissionDeniedError, describe_nats_error
from almenara_nats.jetstream import StreamList, describe_internal_use, list_consumers
from almenara_nats.kinds import BUS, CONSUMER, OFFLINE, SERVER, SOURCE, STREAM, is_leaderless
from almenara_nats.settings import NatsSettings

log = structlog.get_logger(__name__)

PER_SECOND: Final = "1/s"
BYTES: Final = "By"
CONCURRENT_LISTS: Final = 8
MISSING_CONFIRMED: Final = 2.0
"""Seconds for which a resource has to be missing from the server's lists to count as deleted."""

PEER_SILENCE: Final = 10_000_000_000
"""Nanoseconds without activity after which a replica that is behind counts as offline."""

NoteLag = Callable[[str, int], None]


class Monitor:
    """Observes all streams and consumers of an account, over one connection after another."""

    def __init__(self, settings: NatsSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self._snapshots = Snapshots()
        self._resources: dict[ResourceKey, Resource] = {}
        """All resources in their last published state."""
        self._last_answer: dict[ResourceKey, int] = {}
        self._listing: StreamList | None = None
        """The last list of streams; None before the first one of a connection."""
        self._changed = asyncio.Event()
        """Set when streams went offline or came back, or can no longer be listed."""
        self._failure = ""
        """Why the streams could not be listed the last time."""
        self._rates: dict[str, tuple[float, int, str]] = {}
        """When each stream was last listed, its last sequence, and when it was created."""
        self._consumers = ConsumerHealth(settings.stalled_after)
        self._missing: dict[ResourceKey, float] = {}
        """Resources that were not in the last lists, with the time of the first of these."""

    async def restore(self) -> None:
        """Load what an earlier run published. It is unknown until the server answers."""
        await self._snapshots.restore(self.context, SOURCE)
        await self._consumers.restore(self.context)
        for kind, namespace, name in await self.context.known_resources(SOURCE):
            resource = Resource(kind=kind, namespace=namespace, name=name)
            self._resources[resource.key] = resource

    def update(self, listing: StreamList) -> None:
        """Set the newest list of streams."""
        before = self._listing
        if before is None or before.offline.keys() != listing.offline.keys():
            self._changed.set()
        self._listing, self._failure = listing, ""

    def fail(self, reason: str) -> None:
        """Note that the streams could not be listed."""
        if self._failure != reason:
            self._changed.set()
        self._listing, self._failure = None, reason

    def _reset_listing(self) -> None:
        self._listing, self._failure = None, ""

    def interrupt(self) -> None:
        """Note that the connection has ended: what follows is not compared with what was before."""
        self._listing = None
        self._missing.clear()
        self._rates.clear()
        self._consumers.reset()

    async def mark_unreachable(self, publish: Publish, reason: str) -> None:
        """Publish all resources as unknown: no server answers about them."""
        self.interrupt()
        for key, resource in self._resources.items():
            self._resources[key] = self._mark_stale(resource, UNKNOWN, reason)
        await self._publish(publish, [])

    async def run(self, connection: Connection, publish: Publish, note_lag: NoteLag) -> None:
        """Publish resources and samples until cancelled; `note_lag` receives the messages that wait
        for our own consumers."""
        self._reset_listing()
        # The event loop may be another than that of the connection before.
        self._changed = asyncio.Event()
        while True:
            self._changed.clear()
            if self._listing is not None:
                await self._observe(connection, self._listing, publish, note_lag)
            elif self._failure:
                await self.mark_unreachable(publish, self._failure)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.observe):
                    await self._changed.wait()

    async def _observe(
        self, connection: Connection, listing: StreamList, publish: Publish, note_lag: NoteLag
    ) -> None:
        if any(self._status(name) != OFFLINE for name in listing.offline):
            # At once: the lists of consumers that follow may take seconds to fail.
            self._mark_offline(listing, self._resources)
            await self._publish(publish, [])
        before, self._resources = self._resources, {}
        samples: list[Signal] = []
        try:
            samples += await self._collect(connection, listing, before, note_lag)
        except BaseException:
            # A round that was interrupted, as by a lost connection, proves nothing.
            self._resources = {**before, **self._resources}
            raise
        self._mark_offline(listing, before)
        self._retain_missing(before)
        await self._publish(publish, samples)

    async def _collect(
        self,
        connection: Connection,
        listing: StreamList,
        before: Mapping[ResourceKey, Resource],
        note_lag: NoteLag,
    ) -> list[Signal]:
        """Note the resources of a list of streams, and return their samples."""
        samples: list[Signal] = []
        slots = asyncio.Semaphore(CONCURRENT_LISTS)

        async def observe_consumers(stream: str) -> None:
            # A list that gets no answer must not delay those of other streams.
            async with slots:
                samples.extend(await self._observe_consumers(connection, stream, before, note_lag))

        self._put(describe_server(connection.server_info))
        async with asyncio.TaskGroup() as group:
            for name, info in listing.streams.items():
                is_read = name in self.settings.streams
                use = "" if is_read else describe_internal_use(name, info)
                self._put(describe_stream(name, info, use))
                samples += self._sample_stream(name, info)
                # The consumers of the bus are replicas of Almenara, which report their own lag.
                if use != BUS:
                    group.create_task(observe_consumers(name))
        return samples

    def _status(self, stream: str) -> str:
        resource = self._resources.get((STREAM, "", stream))
        return resource.status if resource is not None else ""

    def _mark_offline(self, listing: StreamList, before: Mapping[ResourceKey, Resource]) -> None:
        """Mark the streams that no server answers about, and their consumers."""
        for name, reason in listing.offline.items():
            stale = before.get((STREAM, "", name), Resource(kind=STREAM, name=name))
            self._resources[stale.key] = self._mark_stale(stale, OFFLINE, reason)
            self._mark_consumers(name, dict(before), reason)
            self._rates.pop(name, None)

    async def _observe_consumers(
        self,
        connection: Connection,
        stream: str,
        before: Mapping[ResourceKey, Resource],
        note_lag: NoteLag,
    ) -> list[Signal]:
        try:
            listing = await list_consumers(connection, stream)
        except (JetStreamError, TimeoutError, PermissionDeniedError) as error:
            reason = f"its consumers cannot be listed: {describe_nats_error(error)}"
            log.debug("consumers cannot be listed", stream=stream, reason=reason)
            self._mark_consumers(stream, before, reason)
            return []
        samples: list[Signal] = []
        for consumer in listing.consumers:
            figures = read_figures(consumer)
            self._put(self._consumers.describe(stream, consumer, figures))
            samples += [
                Sample(
                    kind=CONSUMER, namespace=stream, name=consumer.name, metric=metric,
                    value=float(value),
                )
                for metric, value in figures.items()
            ]  # fmt: skip
            if consumer.name == self.settings.durable:
                note_lag(stream, figures["pending"] + figures["ack_pending"])
        if listing.offline:
            reason = "no server that stores it responds"
            self._mark_consumers(stream, before, reason, only=listing.offline)
        return samples

    def _retain_missing(self, before: Mapping[ResourceKey, Resource]) -> None:
        """Keep what has been missing for a moment only: a server that shuts down answers with empty
        lists until its end."""
        moment = time.monotonic()
        missing = {
            key: self._missing.get(key, moment)
            for key in before
            if key not in self._resources and key[0] != SERVER
        }
        for key, since in missing.items():
            if moment - since < MISSING_CONFIRMED:
                self._resources[key] = before[key]
        self._missing = missing

    def _put(self, resource: Resource) -> None:
        self._resources[resource.key] = resource
        self._last_answer[resource.key] = now()

    def _mark_consumers(
        self,
        stream: str,
        before: Mapping[ResourceKey, Resource],
        reason: str,
        only: set[str] | None = None,
    ) -> None:
        """Mark the consumers of a stream that no server answers about as unknown."""
        for key, resource in before.items():
            if key[:2] == (CONSUMER, stream) and (only is None or key[2] in only):
                self._resources[key] = self._mark_stale(resource, UNKNOWN, reason)
                self._consumers.forget(stream, key[2])

    def _mark_stale(self, resource: Resource, status: str, reason: str) -> Resource:
        if resource.status == status and resource.state.get("reason") == reason:
            return resource
        stale = mark_unknown(resource, reason, self._last_answer.get(resource.key), status=status)
        severity = Severity.ERROR if status == OFFLINE else Severity.WARN
        return msgspec.structs.replace(stale, severity=severity, time=now())

    def _sample_stream(self, name: str, info: StreamInfo) -> list[Signal]:
        state, moment = info.state, time.monotonic()
        before = self._rates.get(name)
        created = str(info.created)
        self._rates[name] = (moment, state.last_seq, created)
        samples: list[Signal] = [
            Sample(kind=STREAM, name=name, metric="messages", value=float(state.messages)),
            Sample(kind=STREAM, name=name, metric="bytes", value=float(state.bytes), unit=BYTES),
            Sample(
                kind=STREAM, name=name, metric="consumers", value=float(state.consumer_count or 0)
            ),
        ]
        # One that was created again, as from a backup, continues no other.
        if before is not None and moment > before[0] and before[2] == created:
            rate = max(state.last_seq - before[1], 0) / (moment - before[0])
            samples.append(
                Sample(kind=STREAM, name=name, metric="rate", value=rate, unit=PER_SECOND)
            )
        return samples

    async def _publish(self, publish: Publish, samples: list[Signal]) -> None:
        changed = list(self._snapshots.difference(self._resources.values()))
        for key in self._last_answer.keys() - self._resources.keys():
            del self._last_answer[key]
            self._rates.pop(key[2], None)
        self._consumers.keep_only({key[1:] for key in self._resources if key[0] == CONSUMER})
        if changed or samples:
            await publish([*changed, *samples, *self._consumers.events])
        await self._consumers.save(self.context)


def read_figures(info: ConsumerInfo) -> dict[str, int]:
    """Return the numbers of a consumer, by metric."""
    return {
        "pending": info.num_pending or 0,
        "ack_pending": info.num_ack_pending or 0,
        "redelivered": info.num_redelivered or 0,
        "waiting": info.num_waiting or 0,
    }


def describe_server(info: Mapping[str, Any]) -> Resource:
    """Return the resource of the server that is connected, from its INFO."""
    return Resource(
        kind=SERVER,
        name=str(info.get("server_name") or info.get("server_id") or "server"),
        status="connected",
        state={"version": str(info.get("version", "")), "host": str(info.get("host", ""))},
    )


def describe_stream(name: str, info: StreamInfo, use: str = "") -> Resource:
    """Return the resource of a stream; `use` says what it stores, if not events."""
    status, severity = judge_stream(info)
    state: dict[str, Any] = {
        "subjects": [str(subject) for subject in info.config.subjects or []],
        "storage": str(info.config.storage or ""),
        "retention": str(info.config.retention or ""),
        "created": str(info.created),
    }
    if use:
        state["used_as"] = use
    if info.cluster is not None and info.cluster.replicas:
        state["leader"] = info.cluster.leader or ""
        state["replicas"] = {
            str(peer.name): "offline"
            if is_offline(peer)
            else "current"
            if peer.current
            else "behind"
            for peer in info.cluster.replicas
        }
    return Resource(kind=STREAM, name=name, status=status, severity=severity, state=state)


def judge_stream(info: StreamInfo) -> tuple[str, Severity]:
    """Return the status of a stream whose figures are known, and how severe it is."""
    cluster = info.cluster
    if is_leaderless(info):
        return "no leader", Severity.ERROR
    if is_full(info):
        return "full", Severity.ERROR
    if cluster is not None and any(is_offline(peer) for peer in cluster.replicas or []):
        return "replica offline", Severity.WARN
    return "ok", Severity.INFO


def is_offline(peer: PeerInfo) -> bool:
    """Whether a replica is offline. The server marks one that crashed only minutes later; until
    then it is behind, and was last active long ago or never."""
    active = peer.active or 0
    return bool(peer.offline) or (not peer.current and (active == 0 or active > PEER_SILENCE))


def is_full(info: StreamInfo) -> bool:
    """Whether a stream refuses new messages because it reached a limit."""
    config, state = info.config, info.state
    if config.discard != DiscardPolicy.NEW:
        return False
    limits = ((config.max_msgs, state.messages), (config.max_bytes, state.bytes))
    return any(limit is not None and 0 < limit <= value for limit, value in limits)
