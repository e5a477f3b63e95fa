"""The source: one connection at a time, and a follower for each stream."""

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog
from nats.errors import Error as NatsError
from nats.js.api import RetentionPolicy, StreamInfo
from nats.js.errors import APIError
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import honor_cancellation
from almenara.signals import Event, Severity, now
from almenara_nats.client import Connection, NatsUnavailableError, close, connect, sentence
from almenara_nats.mapping import parse_headers, read_message
from almenara_nats.monitor import SOURCE, Observer
from almenara_nats.settings import NatsSettings
from almenara_nats.stream_reader import ContestedError, Follower, Interrupted

log = structlog.get_logger(__name__)

RETRY: Final = 1.0
RETRY_LIMIT: Final = 2.0
JITTER: Final = 0.3
CORE_WAITING: Final = 20_000
CORE_BYTES: Final = 64 * 1024**2
"""Messages of core subjects that may wait, and their bytes; more are dropped, and that is told."""
DROPS_SHOWN: Final = 60.0
"""Seconds for which the last loss on core subjects is shown."""
HIDDEN: Final = ("KV_", "OBJ_", "$")
"""Key-value buckets and object stores hold state, not events, and often secrets."""

ConnectionTrouble = (NatsUnavailableError, NatsError, JetStreamError, OSError, TimeoutError)


class Troubles:
    """What is wrong now, part by part; the source is degraded as long as anything is."""

    def __init__(self, report: SourceReport) -> None:
        self._report = report
        self._known: dict[str, str] = {}

    def note(self, part: str, reason: str) -> None:
        if self._known.get(part) != reason:
            self._known[part] = reason
            self._tell()

    def clear(self, part: str) -> None:
        if self._known.pop(part, None) is not None:
            self._tell()

    def _tell(self) -> None:
        if self._known:
            self._report.degraded("; ".join(self._known.values()))
        else:
            self._report.recovered()


class NatsSource:
    """Every stream of an account, and chosen core subjects."""

    name = SOURCE
    rate_limit = 200_000.0
    """Beyond what the bus takes: what waits stays in the stream, and is told as the lag."""

    def __init__(self, settings: NatsSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self._lag: dict[str, int] = {}
        """What waits in each stream that is followed."""
        self._met: set[str] | None = None
        """Streams seen so far; one that is not among them came into being before our eyes."""

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled; connects again for ever."""
        wait = RETRY / 2
        while True:
            try:
                connection = await honor_cancellation(connect(self.settings))
            except NatsUnavailableError as error:
                report.degraded(str(error))
                await asyncio.sleep(wait * (1 + random.uniform(-JITTER, JITTER)))  # nosec B311 # spreads requests, guards nothing
                wait = min(wait * 1.5, RETRY_LIMIT)
                continue
            wait = RETRY / 2
            try:
                await self._connected(connection, publish, report)
            except* ConnectionTrouble as group:
                report.degraded(f"the connection to NATS was lost: {sentence(group)}")
            finally:
                await close(connection)
            await asyncio.sleep(RETRY / 2)

    async def _connected(
        self, connection: Connection, publish: Publish, report: SourceReport
    ) -> None:
        report.recovered()
        troubles = Troubles(report)
        observer = Observer(connection, self.settings, self.context)
        self._lag.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(connection))
            group.create_task(self._streams(connection, publish, report, observer, troubles))
            group.create_task(
                observer.run(
                    publish, lambda stream, waiting: self._note_lag(stream, waiting, report)
                )
            )
            if self.settings.subjects:
                group.create_task(self._subjects(connection, publish, report, troubles))

    async def _watch(self, connection: Connection) -> None:
        await connection.lost()
        said = connection.last_error
        raise NatsUnavailableError(sentence(said) if said else "the server went away")

    async def _streams(
        self,
        connection: Connection,
        publish: Publish,
        report: SourceReport,
        observer: Observer,
        troubles: Troubles,
    ) -> None:
        """Keep a follower for every stream that should be read."""
        followers: dict[str, asyncio.Task[None]] = {}
        created: dict[str, str] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    found = {it.config.name or "": it for it in await all_streams(connection)}
                except (JetStreamError, TimeoutError) as error:
                    troubles.note(
                        LISTING,
                        f"the streams cannot be listed: {sentence(error)}. Check that JetStream is"
                        " enabled for this account",
                    )
                    await asyncio.sleep(self.settings.rescan)
                    continue
                troubles.clear(LISTING)
                observer.streams = found
                wanted = {name: it for name, it in found.items() if self._wanted(name, it)}
                self._judge(wanted, troubles)
                newborn = set(found) - self._met if self._met is not None else set[str]()
                self._met = (self._met or set()) | set(found)
                for name in list(followers):
                    gone = name not in wanted
                    anew = not gone and str(wanted[name].created) != created[name]
                    if gone or anew or followers[name].done():
                        followers.pop(name).cancel()
                        del self._lag[name]
                        report.lag(sum(self._lag.values()))
                        troubles.clear(name)
                for name, info in wanted.items():
                    if name not in followers:
                        created[name] = str(info.created)
                        self._lag[name] = 0
                        follower = Follower(
                            connection,
                            name,
                            self.settings,
                            self.context,
                            publish,
                            report,
                            lambda stream, pending: self._note_lag(stream, pending, report),
                            newborn=name in newborn,
                        )
                        followers[name] = group.create_task(
                            self._follow(follower, name, troubles),
                            name=f"nats stream {name}",
                        )
                await asyncio.sleep(self.settings.rescan)

    def _wanted(self, name: str, info: StreamInfo) -> bool:
        if self.settings.streams:
            return name in self.settings.streams
        if name.startswith(HIDDEN):
            return False
        # A work queue gives each message to one reader; reading it would take work from workers.
        return info.config.retention != RetentionPolicy.WORK_QUEUE

    def _judge(self, wanted: dict[str, StreamInfo], troubles: Troubles) -> None:
        missing = [name for name in self.settings.streams if name not in wanted]
        if missing:
            troubles.note(
                MISSING,
                f"no such stream: {', '.join(missing)}. It is read as soon as it exists; create it"
                " with `almenara streams apply`, or correct plugins.nats.streams",
            )
        else:
            troubles.clear(MISSING)

    def _note_lag(self, stream: str, pending: int, report: SourceReport) -> None:
        if stream in self._lag:
            self._lag[stream] = pending
            report.lag(sum(self._lag.values()))

    async def _follow(self, follower: Follower, name: str, troubles: Troubles) -> None:
        """Follow one stream, beginning anew where its consumer is lost, once a second at most."""
        while True:
            wary, wait = False, RETRY
            try:
                info = await honor_cancellation(follower.connection.jetstream().stream_info(name))
                await follower.run(info, lambda: troubles.clear(name))
            except Interrupted as reason:
                wary = reason.taken
                log.info("a stream is taken up again", stream=name, reason=str(reason))
                if not wary:
                    troubles.note(name, f"stream {name} is taken up again: {reason}")
            except ContestedError as error:
                wary, wait = True, CONTESTED_RETRY
                troubles.note(name, str(error))
            except TimeoutError:
                troubles.note(name, f"stream {name} does not answer; it is asked again")
            except JetStreamError as error:
                if isinstance(error, APIError) and error.err_code == STREAM_NOT_FOUND:
                    troubles.clear(name)
                    return
                taken = isinstance(error, APIError) and error.err_code in QUEUE_TAKEN
                remedy = (
                    "It is a work queue with workers of its own: leave it out of"
                    " plugins.nats.streams, and name its subjects in plugins.nats.subjects"
                    if taken
                    else "Check the stream's limits and the user's permissions"
                )
                troubles.note(name, f"stream {name} cannot be read: {sentence(error)}. {remedy}")
            follower = follower.anew(wary=wary)
            await asyncio.sleep(wait)

    async def _subjects(
        self,
        connection: Connection,
        publish: Publish,
        report: SourceReport,
        troubles: Troubles,
    ) -> None:
        """Core subjects: what cannot be handed on in time is lost, and said to be."""
        waiting: deque[tuple[bytes, bytes, bytes, int]] = deque()
        wake = asyncio.Event()
        size = dropped = told = 0
        last_drop = 0.0
        internal = (*INTERNAL, f"{self.settings.inbox_prefix}.".encode())

        def take(subject: bytes, _reply: bytes, payload: bytes, headers: bytes) -> None:
            nonlocal size, dropped
            if subject.startswith(internal):
                return
            if len(waiting) >= CORE_WAITING or size + len(payload) > CORE_BYTES:
                dropped += 1
            else:
                size += len(payload)
                waiting.append((subject, payload, headers, now()))
            wake.set()

        def read(subject: bytes, payload: bytes, headers: bytes, received: int) -> Event:
            return read_message(
                subject.decode("utf-8", "replace"),
                {**parse_headers(headers), "delivery": "at-most-once"},
                payload,
                received=received,
                raw_limit=self.settings.raw_limit,
                data_limit=self.settings.data_limit,
            )

        unfollow = [await connection.follow(it, take) for it in self.settings.subjects]
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DROPS_SHOWN if told else None):
                        await wake.wait()
                wake.clear()
                if dropped > told:
                    troubles.note(
                        DROPPED,
                        f"{dropped:,} messages on core subjects came faster than they could be"
                        " stored and were dropped; put the subjects into a stream",
                    )
                    loss = Event(
                        id=str(uuid.uuid4()),
                        source="nats/core",
                        origin="nats/core",
                        type="almenara.messages.dropped",
                        time=now(),
                        severity=Severity.WARN,
                        data={"dropped": dropped - told},
                        attributes={"delivery": "at-most-once"},
                    )
                    told, last_drop = dropped, time.monotonic()
                    await publish([loss])
                elif time.monotonic() - last_drop >= DROPS_SHOWN:
                    troubles.clear(DROPPED)
                while waiting:
                    count = min(len(waiting), self.settings.batch)
                    taken = [waiting.popleft() for _ in range(count)]
                    batch: Sequence[Event] = [read(*it) for it in taken]
                    if problems := sum(it.problem is not None for it in batch):
                        report.rejected(problems)
                    await publish(batch)
                    size -= sum(len(it[1]) for it in taken)
        finally:
            for end in unfollow:
                await end()


CONTESTED_RETRY: Final = 30.0
INTERNAL: Final = (b"_INBOX.", b"$JS.", b"$SYS.")
"""Subjects of NATS's own talk, our own answers among it, that a wide wildcard would bring."""
LISTING: Final = "the listing of streams"
MISSING: Final = "missing streams"
DROPPED: Final = "dropped messages"
STREAM_NOT_FOUND: Final = 10059
QUEUE_TAKEN: Final = (10099, 10100)
"""A work queue has one consumer for a subject; the server refuses a second one with these."""
PAGE: Final = 256


async def all_streams(connection: Connection) -> list[StreamInfo]:
    """Every stream of the account."""
    jetstream = connection.jetstream()
    found: list[StreamInfo] = []
    while True:
        page = await honor_cancellation(jetstream.streams_info(offset=len(found)))
        found += page
        if len(page) < PAGE:
            return found
