"""The source: one connection at a time, and a follower for each stream."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog
from nats.errors import Error as NatsError
from nats.js.api import RetentionPolicy, StreamInfo
from nats.js.errors import APIError
from nats.js.errors import Error as JetStreamError

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.signals import Event, now
from almenara_nats.connection import Connection, NatsUnavailableError, close, connect, sentence
from almenara_nats.following import Follower, Interrupted
from almenara_nats.observing import Observer
from almenara_nats.reading import parse_headers, read_message
from almenara_nats.settings import NatsSettings

log = structlog.get_logger(__name__)

RETRY: Final = 1.0
RETRY_LIMIT: Final = 5.0
CORE_WAITING: Final = 20_000
HIDDEN: Final = ("KV_", "OBJ_", "$")
"""Key-value buckets and object stores hold state, not events, and often secrets."""

ConnectionTrouble = (NatsUnavailableError, NatsError, JetStreamError, OSError, TimeoutError)


class NatsSource:
    """Every stream of an account, and chosen core subjects."""

    name = "nats"

    def __init__(self, settings: NatsSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self._lag: dict[str, int] = {}

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled; connects again for ever."""
        wait = RETRY / 2
        while True:
            try:
                connection = await connect(self.settings)
            except NatsUnavailableError as error:
                report.degraded(str(error))
                await asyncio.sleep(wait)
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
        observer = Observer(connection, self.settings)
        self._lag.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(connection))
            group.create_task(self._streams(connection, publish, report, observer))
            group.create_task(observer.run(publish))
            if self.settings.subjects:
                group.create_task(self._subjects(connection, publish, report))

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
    ) -> None:
        """Keep a follower for every stream that should be read."""
        followers: dict[str, asyncio.Task[None]] = {}
        created: dict[str, str] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    found = {it.config.name or "": it for it in await all_streams(connection)}
                except APIError as error:
                    report.degraded(
                        f"the streams cannot be listed: {sentence(error)}. Check that JetStream is"
                        " enabled for this account."
                    )
                    await asyncio.sleep(self.settings.rescan)
                    continue
                observer.streams = found
                wanted = {name: it for name, it in found.items() if self._wanted(name, it)}
                self._judge(wanted, report)
                for name in list(followers):
                    gone = name not in wanted
                    anew = not gone and str(wanted[name].created) != created[name]
                    if gone or anew or followers[name].done():
                        followers.pop(name).cancel()
                        self._lag.pop(name, None)
                for name, info in wanted.items():
                    if name not in followers:
                        created[name] = str(info.created)
                        follower = Follower(
                            connection,
                            name,
                            self.settings,
                            self.context,
                            publish,
                            report,
                            lambda stream, pending: self._note_lag(stream, pending, report),
                        )
                        followers[name] = group.create_task(
                            self._follow(follower, name),
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

    def _judge(self, wanted: dict[str, StreamInfo], report: SourceReport) -> None:
        missing = [name for name in self.settings.streams if name not in wanted]
        if missing:
            report.degraded(
                f"no such stream: {', '.join(missing)}. It is read as soon as it exists; create it"
                " with `almenara streams apply`, or correct plugins.nats.streams."
            )
        else:
            report.recovered()

    def _note_lag(self, stream: str, pending: int, report: SourceReport) -> None:
        self._lag[stream] = pending
        report.lag(sum(self._lag.values()))

    async def _follow(self, follower: Follower, name: str) -> None:
        """Follow one stream, beginning anew where its consumer is lost, once a second at most."""
        while True:
            try:
                info = await follower.connection.jetstream().stream_info(name)
                await follower.run(info)
            except Interrupted as reason:
                log.info("a stream is taken up again", stream=name, reason=str(reason))
            except APIError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    return
                log.warning("a stream cannot be read", stream=name, reason=sentence(error))
            except TimeoutError:
                log.warning("a stream does not answer", stream=name)
            follower = follower.anew()
            await asyncio.sleep(RETRY)

    async def _subjects(
        self, connection: Connection, publish: Publish, report: SourceReport
    ) -> None:
        """Core subjects: what cannot be handed on in time is lost, and said to be."""
        waiting: deque[Event] = deque()
        wake = asyncio.Event()
        dropped = 0

        def take(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
            nonlocal dropped
            if reply.startswith(b"$JS.ACK.") or len(waiting) >= CORE_WAITING:
                dropped += 1
                return
            event = read_message(
                subject.decode("utf-8", "replace"),
                {**parse_headers(headers), "delivery": "at-most-once"},
                payload,
                received=now(),
                raw_limit=self.settings.raw_limit,
                data_limit=self.settings.data_limit,
            )
            waiting.append(event)
            wake.set()

        unfollow = [await connection.follow(it, take) for it in self.settings.subjects]
        try:
            while True:
                await wake.wait()
                wake.clear()
                while waiting:
                    count = min(len(waiting), self.settings.batch)
                    batch: Sequence[Event] = [waiting.popleft() for _ in range(count)]
                    report.rejected(sum(it.problem is not None for it in batch))
                    await publish(batch)
                if dropped:
                    report.degraded(
                        f"{dropped} messages on core subjects came faster than they could be"
                        " stored and were dropped; put the subjects into a stream"
                    )
        finally:
            for end in unfollow:
                end()


STREAM_NOT_FOUND: Final = 10059
PAGE: Final = 256


async def all_streams(connection: Connection) -> list[StreamInfo]:
    """Every stream of the account."""
    jetstream = connection.jetstream()
    found: list[StreamInfo] = []
    while True:
        page = await jetstream.streams_info(offset=len(found))
        found += page
        if len(page) < PAGE:
            return found
