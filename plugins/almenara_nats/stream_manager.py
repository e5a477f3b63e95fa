"""Runs a reader for each stream that is to be read, and restarts those that fail."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from nats.js.api import RetentionPolicy, StreamInfo
from nats.js.errors import APIError, Error as JetStreamError

from almenara.sdk import HealthAggregator, honor_cancellation
from almenara.signals import parse_time
from almenara_nats.consumer import ConsumerInUseError
from almenara_nats.errors import (
    PermissionDeniedError,
    describe_nats_error,
    is_jetstream_disabled,
    suggest_jetstream_remedy,
)
from almenara_nats.jetstream import StreamList, is_bus, list_streams
from almenara_nats.kinds import INTERNAL_PREFIXES
from almenara_nats.monitor import Monitor
from almenara_nats.settings import NatsSettings
from almenara_nats.stream_reader import InterruptedReadError, ReaderContext, StreamReader

log = structlog.get_logger(__name__)

HIDDEN_PREFIXES: Final = (*INTERNAL_PREFIXES, "$")
RETRY: Final = 0.5
LONGEST_PATIENCE: Final = 5.0
IN_USE_RETRY: Final = 30.0
LIST_PART: Final = "the list of streams"
MISSING_PART: Final = "missing streams"
STREAM_NOT_FOUND: Final = 10059
QUEUE_IN_USE: Final = (10099, 10100)
"""A work queue has one consumer per subject; the server refuses a second one with these."""


class RunningReader(msgspec.Struct):
    """A reader and the stream it was started for."""

    task: asyncio.Task[None]
    created: str
    created_at: int
    """The same in microseconds since the epoch."""
    first_sequence: int
    """The first message that the stream had then."""


class StreamManager:
    """Keeps one reader per stream, for the length of a connection."""

    def __init__(
        self,
        shared: ReaderContext,
        monitor: Monitor,
        health: HealthAggregator,
        known: set[str] | None,
        selected: dict[str, StreamInfo],
    ) -> None:
        self.shared, self.monitor, self.health = shared, monitor, health
        self.settings = shared.settings
        self.known = known
        """Streams seen so far, also over earlier connections; a stream that is not among them was
        created while the source ran. None until the first list."""
        self.selected = selected
        """The streams that are read; at first those of the last connection, whose readers do not
        wait for a list of all streams."""
        self.lag: dict[str, int] = {}
        """Messages that wait in each stream that is read."""
        self._message_bytes: dict[str, float] = {}
        """Average size of the messages of each stream."""
        self._readers: dict[str, RunningReader] = {}

    async def run(self) -> None:
        """List the streams regularly and keep the readers right, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._start_readers(set(), group)
            while True:
                try:
                    listing = await list_streams(self.shared.connection)
                except (JetStreamError, TimeoutError, PermissionDeniedError) as error:
                    self._note_list_error(error)
                else:
                    self.health.clear(LIST_PART)
                    self.monitor.update(listing)
                    self._update(listing, group)
                await asyncio.sleep(self.settings.rescan)

    def _note_list_error(self, error: Exception) -> None:
        is_core_only = bool(self.settings.subjects) and not self.settings.streams
        if is_core_only and is_jetstream_disabled(error):
            # Core subjects need no JetStream.
            self.health.clear(LIST_PART)
            return
        reason = f"the streams cannot be listed: {describe_nats_error(error)}"
        self.monitor.fail(reason)
        self.health.note(LIST_PART, f"{reason}. {suggest_jetstream_remedy(error)}")

    def _update(self, listing: StreamList, group: asyncio.TaskGroup) -> None:
        """Stop the readers of streams that were deleted or recreated, and start missing ones."""
        selected = self.selected = select_streams(listing.streams, self.settings)
        self._message_bytes = {
            name: info.state.bytes / max(info.state.messages, 1) for name, info in selected.items()
        }
        names = listing.streams.keys() | listing.offline.keys()
        new = set[str]() if self.known is None else names - self.known
        self.known = (self.known or set()) | names
        self._note_missing(names)
        self._note_offline(listing)
        for name in list(self._readers):
            info = selected.get(name)
            reader = self._readers[name]
            is_recreated = info is not None and str(info.created) != reader.created
            if reader.task.done() or is_recreated or (info is None and name not in listing.offline):
                self._stop(name)
        self._start_readers(new, group)

    def _start_readers(self, new: set[str], group: asyncio.TaskGroup) -> None:
        for name, info in self.selected.items():
            if name not in self._readers:
                self.lag[name] = 0
                reader_task = group.create_task(
                    self._read(StreamReader(self.shared, name, is_new=name in new)),
                    name=f"nats stream {name}",
                )
                self._readers[name] = RunningReader(
                    reader_task,
                    str(info.created),
                    parse_time(str(info.created)) if info.created else 0,
                    info.state.first_seq,
                )

    def _stop(self, name: str) -> None:
        self._readers.pop(name).task.cancel()
        self.lag.pop(name, None)
        self._report_lag()
        self.health.clear(name)

    def _note_missing(self, names: set[str]) -> None:
        missing = [name for name in self.settings.streams if name not in names]
        self.health.note(
            MISSING_PART,
            f"no such stream: {', '.join(missing)}. It is read as soon as it exists; create it"
            " with `almenara streams apply`, or correct plugins.nats.streams"
            if missing
            else "",
        )

    def _note_offline(self, listing: StreamList) -> None:
        part = "offline streams"
        names = ", ".join(sorted(listing.offline))
        self.health.note(
            part,
            f"offline streams: {names}. Check the servers that store them" if names else "",
        )

    def is_read(self, stream: str, sequence: int, stored: int) -> bool:
        """Whether a message of a stream is read from it, of which a copy was stored at `stored`.

        A copy of what the stream deleted before it was read, or had before it was recreated, is
        not in it any more.
        """
        reader = self._readers.get(stream)
        if reader is None or stored < reader.created_at:
            return False
        return sequence >= self.shared.first_read.get(stream, reader.first_sequence)

    def note_lag(self, stream: str, pending: int) -> None:
        """Note how many messages wait in a stream that is read."""
        if stream in self.lag:
            self.lag[stream] = pending
            self._report_lag()

    @property
    def backlog_bytes(self) -> float:
        """Bytes that wait in all streams, estimated."""
        return sum(
            count * self._message_bytes.get(stream, 0.0) for stream, count in self.lag.items()
        )

    def _report_lag(self) -> None:
        self.shared.report.lag(sum(self.lag.values()))

    async def _read(self, reader: StreamReader) -> None:
        """Read one stream; recreate the reader when its consumer is lost."""
        name = reader.stream
        while True:
            respect_other_reader, wait = False, RETRY
            try:
                jetstream = self.shared.connection.jetstream(timeout=reader.patience)
                info = await honor_cancellation(jetstream.stream_info(name))
                await reader.run(info, lambda: self.health.clear(name))
            except InterruptedReadError as error:
                respect_other_reader = error.may_be_in_use
                log.info("reading of a stream restarts", stream=name, reason=str(error))
                if not respect_other_reader:
                    self.health.note(name, f"reading of stream {name} restarts: {error}")
            except ConsumerInUseError as error:
                respect_other_reader, wait = True, IN_USE_RETRY
                self.health.note(name, str(error))
            except (JetStreamError, TimeoutError, PermissionDeniedError) as error:
                if isinstance(error, APIError) and error.err_code == STREAM_NOT_FOUND:
                    self.health.clear(name)
                    return
                self.health.note(name, describe_read_error(name, error))
                if isinstance(error, TimeoutError):
                    reader.patience = min(reader.patience * 2, LONGEST_PATIENCE)
            reader = reader.recreate(respect_other_reader=respect_other_reader)
            await asyncio.sleep(wait)


def select_streams(
    streams: Mapping[str, StreamInfo], settings: NatsSettings
) -> dict[str, StreamInfo]:
    """Return the streams to read: those named in the settings, or all that hold events of their
    own and may be read without taking messages from others."""
    if settings.streams:
        return {name: info for name, info in streams.items() if name in settings.streams}
    return {
        name: info
        for name, info in streams.items()
        if not name.startswith(HIDDEN_PREFIXES)
        and not is_bus(info)
        # A work queue delivers each message once: reading it would take work from its workers.
        and info.config.retention != RetentionPolicy.WORK_QUEUE
        and not _is_mirror_of(info, streams)
    }


def _is_mirror_of(info: StreamInfo, streams: Mapping[str, StreamInfo]) -> bool:
    """Whether a stream mirrors another one of the list, where its messages are read."""
    mirror = info.config.mirror
    return mirror is not None and mirror.external is None and mirror.name in streams


def describe_read_error(stream: str, error: Exception) -> str:
    """Return why a stream is not read, and what to do."""
    if isinstance(error, APIError) and error.err_code in QUEUE_IN_USE:
        remedy = (
            "It is a work queue with workers of its own: remove it from plugins.nats.streams, and"
            " name its subjects in plugins.nats.subjects"
        )
    elif isinstance(error, PermissionDeniedError | TimeoutError):
        remedy = suggest_jetstream_remedy(error)
    else:
        remedy = "Check the stream's limits and the user's permissions"
    return f"stream {stream} cannot be read: {describe_nats_error(error)}. {remedy}"
