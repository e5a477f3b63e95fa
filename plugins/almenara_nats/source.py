"""The source: one connection at a time, with readers for streams and core subjects."""

import asyncio
import random
import time
from typing import Final

import structlog
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import HealthAggregator, honor_cancellation, run_in_task
from almenara_nats.binary_formats import ProtobufDecoder
from almenara_nats.client import Connection, close, connect
from almenara_nats.core_subjects import CoreReader
from almenara_nats.errors import NatsUnavailableError, PermissionDeniedError, describe_nats_error
from almenara_nats.kinds import SOURCE
from almenara_nats.monitor import Monitor
from almenara_nats.settings import NatsSettings
from almenara_nats.stream_manager import StreamManager
from almenara_nats.stream_reader import ReadBudget, ReaderContext

log = structlog.get_logger(__name__)

RETRY: Final = 1.0
RETRY_LIMIT: Final = 2.0
JITTER: Final = 0.3
SMALLEST_BUDGET: Final = 1024**2
SCHEMAS_PART: Final = "schemas"
READING_PART: Final = "closed by the server"
ACK_SUBJECT: Final = "$JS.ACK."

ConnectionLost = (
    NatsUnavailableError,
    NatsError,
    PermissionDeniedError,
    OSError,
    TimeoutError,
)


class NatsSource:
    """All streams of an account, and selected core subjects."""

    name = SOURCE
    rate_limit = 200_000.0
    """Above what the bus accepts: what waits stays in the stream, and is reported as the lag."""

    def __init__(self, settings: NatsSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self.monitor = Monitor(settings, context)
        self._known_streams: set[str] | None = None
        self._read_streams: dict[str, StreamInfo] = {}
        """The streams that were read over the last connection."""
        self._budget = ReadBudget(settings.batch_bytes)
        self._server_id = ""
        """The server process of the last connection."""
        self._had_backlog = False
        """Whether so much was waiting when the last connection was lost that the server may have
        closed it for that."""

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled; connects again without end."""
        # Another replica may have published something else since an earlier run of this one.
        self.monitor = Monitor(self.settings, self.context)
        await self.monitor.restore()
        wait = RETRY / 2
        while True:
            try:
                connection = await honor_cancellation(connect(self.settings))
            except NatsUnavailableError as error:
                report.degraded(str(error))
                self._server_id = ""
                await self.monitor.mark_unreachable(publish, "NATS is unreachable")
                await asyncio.sleep(wait * (1 + random.uniform(-JITTER, JITTER)))  # nosec B311 # spreads requests, guards nothing
                wait = min(wait * 1.5, RETRY_LIMIT)
                continue
            wait, reason, started = RETRY / 2, "", time.monotonic()
            try:
                await run_in_task(self._run_connected(connection, publish, report))
            except* ConnectionLost as group:
                reason = describe_nats_error(group)
            finally:
                await close(connection)
            report.degraded(f"the connection to NATS was lost: {reason}")
            # Another server of a cluster may go on at once; what is unreachable shows then.
            self.monitor.interrupt()
            await asyncio.sleep(max(started + RETRY / 2 - time.monotonic(), 0.0))

    async def _run_connected(
        self, connection: Connection, publish: Publish, report: SourceReport
    ) -> None:
        report.recovered()
        health = HealthAggregator(report)
        self._adapt_budget(connection, health)
        connection.on_violation = lambda action, subject: note_violation(
            health, self.settings, action, subject
        )
        protobuf = ProtobufDecoder(self.settings.protobuf)
        if problems := await asyncio.to_thread(protobuf.load):
            health.note(SCHEMAS_PART, "; ".join(problems))
        shared = ReaderContext(
            connection=connection,
            settings=self.settings,
            context=self.context,
            publish=publish,
            report=report,
            note_lag=lambda stream, pending: note_lag(stream, pending),
            first_read={},
            is_read_at_origin=lambda *message: manager.is_read(*message),
            budget=self._budget,
            protobuf=protobuf,
        )
        manager = StreamManager(
            shared, self.monitor, health, self._known_streams, self._read_streams
        )

        def note_lag(stream: str, pending: int) -> None:
            manager.note_lag(stream, pending)
            if not any(manager.lag.values()):
                health.clear(READING_PART)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(watch_connection(connection))
                group.create_task(manager.run())
                group.create_task(self.monitor.run(connection, publish, note_lag))
                if self.settings.subjects:
                    core = CoreReader(connection, self.settings, publish, report, health, protobuf)
                    group.create_task(core.run())
        finally:
            self._known_streams, self._read_streams = manager.known, manager.selected
            self._had_backlog = manager.backlog_bytes >= SMALLEST_BUDGET

    def _adapt_budget(self, connection: Connection, health: HealthAggregator) -> None:
        """Request less at once if the same server process closed the last connection while much
        was waiting: it does so when it has too much to send (`max_pending`)."""
        server_id = str(connection.server_info.get("server_id", ""))
        if server_id and server_id == self._server_id and self._had_backlog:
            self._budget.total = max(self._budget.total // 2, SMALLEST_BUDGET)
            text = (
                "the server closed the connection while it was sending messages; at most"
                f" {self._budget.total:,} bytes are requested at once now. Lower"
                " plugins.nats.batch_bytes or raise max_pending on the server"
            )
            log.warning("the server closed the connection", remedy=text)
            health.note(READING_PART, text)
        elif server_id != self._server_id:
            self._budget.total = self.settings.batch_bytes
        self._budget.readers = 0
        self._server_id, self._had_backlog = server_id, False


async def watch_connection(connection: Connection) -> None:
    """Wait until the connection is lost. Raises `NatsUnavailableError` with the reason."""
    await connection.wait_closed()
    error = connection.last_error
    raise NatsUnavailableError(
        describe_nats_error(error) if error else "the server closed the connection"
    )


def note_violation(
    health: HealthAggregator, settings: NatsSettings, action: str, subject: str
) -> None:
    """Report a denied subject at what it is needed for, for the length of the connection."""
    verb = "publishing" if action == "publish" else "subscribing"
    if subject.upper().startswith(ACK_SUBJECT):
        # Newer servers put domain and account before the stream.
        parts = subject.split(".")
        stream = parts[2] if len(parts) == 9 else parts[4]
        subject = f"$JS.ACK.{stream}.{settings.durable}.>"
        effect = f"; messages of stream {stream} cannot be acknowledged, and reading it stops"
    else:
        effect = ""
    health.note(
        f"permission {action} {subject}",
        f"the server denies {verb} to {subject}{effect}. Allow it for this user; the plugin's"
        " README lists the permissions",
    )
