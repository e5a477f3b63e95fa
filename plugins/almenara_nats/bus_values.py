"""Values that replicas share beside the bus, as key-value buckets: leases, and who is signed in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamInfo
from nats.js.errors import (
    APIError,
    Error as JetStreamError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from almenara.hookspecs import ValueChange
from almenara.sdk import finish_within, honor_cancellation
from almenara_nats.bus_settings import JetStreamBusSettings
from almenara_nats.client import Connection
from almenara_nats.errors import NatsUnavailableError, translated_errors

CLOSE_TIMEOUT: Final = 1.0
CONNECTION_CHECK: Final = 1.0
"""Seconds without a change after which a watcher looks at its connection."""
BUCKET_CHECK: Final = 1.0
"""Seconds between two checks of a watched bucket; two of them find that its changes do not arrive,
which counts in how soon a revocation does."""
CHECK_TIMEOUT: Final = 1.0
"""Seconds that changes may wait for a check."""
WATCH_TIMEOUT: Final = 1.0
"""Seconds for a request that opens a watch, until another consumer is created: one that was placed
on a server which has just ended never responds."""
WATCH_ATTEMPTS: Final = 4
WRONG_LAST_SEQUENCE: Final = (10071, 10164)
TTL_DISABLED: Final = 10166
DELETION_TTL: Final = 86_400.0
"""Seconds for which a bucket has that a value was deleted; who missed it misses the value then."""
RECREATED: Final = "the bucket was deleted and created again"
STALLED: Final = "changes of the bucket do not arrive"
LEASES: Final = "Which replica of Almenara runs which source."
STATE: Final = "Sessions, hashes of tokens, and saved dashboards of Almenara."


class WatchProgress:
    """How far the changes of a watched bucket have arrived, compared with its leader."""

    def __init__(self, info: StreamInfo) -> None:
        """`info` is from before the watch: what it has is among the first values."""
        self.identity = str(info.created)
        self._newest = int(info.state.last_seq)
        self._arrivals = 0
        self._arrivals_before: int | None = None
        """How many changes had arrived at the last check; None where none was missing."""

    def note(self, revision: int) -> None:
        """Note a change that has arrived."""
        self._newest = max(self._newest, revision)
        self._arrivals += 1

    def is_stalled(self, newest: int) -> bool:
        """Return whether changes are missing, as at the check before, and none has arrived since.
        `newest` is the newest revision of the bucket."""
        is_missing = newest > self._newest
        is_stalled = is_missing and self._arrivals == self._arrivals_before
        self._arrivals_before = self._arrivals if is_missing else None
        return is_stalled


class JetStreamValues:
    """The values of one bucket."""

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStreamContext,
        bucket: str,
        *,
        deletion_ttl: float = 0.0,
        check_interval: float = 0.0,
    ) -> None:
        """`deletion_ttl` are the seconds for which deletions are stored, 0 for as long as the
        bucket stores anything. `check_interval` are those between two checks, while it is watched,
        that its changes arrive, and that it was not deleted and created again; with 0, only `put`
        notices the latter, and the state of the bucket is not requested, which needs a
        permission."""
        self.bucket, self._connection, self._jetstream = bucket, connection, jetstream
        self._deletion_ttl, self._check_interval = deletion_ttl, check_interval
        self._newest = 0
        """The highest revision so far."""
        self._is_recreated = False
        """Whether a later one was lower."""
        self._values = self._open(jetstream)
        self._watched = self._values
        if check_interval:
            self._watched = self._open(connection.jetstream(timeout=WATCH_TIMEOUT))

    def _open(self, jetstream: JetStreamContext) -> KeyValue:
        """Open the bucket, without a request to the server."""
        return KeyValue(
            name=self.bucket, stream=f"KV_{self.bucket}", pre=f"$KV.{self.bucket}.", js=jetstream,
            direct=False,
        )  # fmt: skip

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        """Create or update a key. Raises `NatsUnavailableError`."""
        before = self._newest
        with translated_errors(f"KV_{self.bucket}"):
            try:
                if revision:
                    update = self._values.update(key, value, last=revision)
                else:
                    update = self._values.create(key, value)
                new = await honor_cancellation(update)
            except (KeyWrongLastSequenceError, KeyNotFoundError):
                return None
            self._is_recreated = self._is_recreated or new <= before
            self._newest = max(self._newest, new)
            return new

    async def delete(self, key: str, revision: int) -> bool:
        """Delete a key where it has that revision. Raises `NatsUnavailableError`."""
        with translated_errors(f"KV_{self.bucket}"):
            try:
                await honor_cancellation(self._delete(key, revision))
            except APIError as error:
                if error.err_code not in WRONG_LAST_SEQUENCE:
                    raise
                return False
            return True

    async def _delete(self, key: str, revision: int) -> None:
        if not self._deletion_ttl:
            await self._values.delete(key, last=revision)
            return
        # The client has no time to live for deletions.
        subject = f"$KV.{self.bucket}.{key}"
        headers = {
            "KV-Operation": "DEL",
            "Nats-Expected-Last-Subject-Sequence": str(revision),
        }
        ttl = {"Nats-TTL": f"{self._deletion_ttl:.0f}s"}
        try:
            await self._jetstream.publish(subject, headers=headers | ttl)
        except APIError as error:
            if error.err_code != TTL_DISABLED:
                raise
            # Of a bucket of an earlier version, until `almenara streams apply`.
            await self._jetstream.publish(subject, headers=headers)

    async def watch(self) -> AsyncIterator[ValueChange | None]:
        """Yield the keys and their changes. Raises `NatsUnavailableError`, also once the bucket was
        deleted and created again.

        The client ends the first values too early where they are on their way to it while it
        requests their number, or where the server with its consumer has fallen behind. With
        `check_interval`, they end once every key that the leader of the bucket has was yielded.

        The server with the consumer may end while the connection is to another one. The client
        notices after ten seconds or more; the checks compare what has arrived with the leader.
        """
        with translated_errors(f"KV_{self.bucket}"):
            info = await self._info() if self._check_interval else None
            progress = None if info is None else WatchProgress(info)
            checked = monotonic()
            watcher = await self._open_watch()
            try:
                missing = await self._list_keys() if progress is not None else set()
                has_ended = is_complete = False
                while True:
                    if has_ended and not missing and not is_complete:
                        is_complete = True
                        yield None
                    if progress is not None and monotonic() - checked >= self._check_interval:
                        await self._check(progress)
                        checked = monotonic()
                    if self._is_recreated:
                        self._is_recreated, self._newest = False, 0
                        raise NatsUnavailableError(RECREATED)
                    try:
                        entry = await honor_cancellation(watcher.updates(CONNECTION_CHECK))  # type: ignore[no-untyped-call]
                    except TimeoutError:
                        # The client does not end a watcher whose connection has ended.
                        if not self._connection.is_connected:
                            raise NatsUnavailableError("the connection has ended") from None
                        if progress is not None and not is_complete:
                            # What has expired since does not arrive any more.
                            missing &= await self._list_keys()
                            has_ended = has_ended or not missing
                        continue
                    if entry is None:
                        has_ended = True
                    else:
                        missing.discard(entry.key)
                        self._newest = max(self._newest, entry.revision or 0)
                        if progress is not None:
                            progress.note(entry.revision or 0)
                        value = None if entry.operation else entry.value or b""
                        yield ValueChange(entry.key, value, entry.revision or 0)
            finally:
                with suppress(NatsError, JetStreamError, TimeoutError, OSError):
                    await finish_within(CLOSE_TIMEOUT, watcher.stop())  # type: ignore[no-untyped-call]

    async def _open_watch(self) -> KeyValue.KeyWatcher:
        for _ in range(WATCH_ATTEMPTS if self._check_interval else 1):
            # The client may give up waiting for its own request, and then find it completed.
            with suppress(TimeoutError, asyncio.InvalidStateError):
                return await honor_cancellation(self._watched.watchall())
        raise NatsUnavailableError("the first values did not arrive in time")

    async def identity(self) -> str:
        """Return when the bucket was created. Raises `NatsUnavailableError`."""
        return str((await self._info()).created)

    async def _check(self, progress: "WatchProgress") -> None:
        """Note where the bucket is another one: the client goes on with its consumer after the last
        revision that it knows, which the new bucket may not reach for long. Raises
        `NatsUnavailableError` where its changes do not arrive."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                info = await self._info()
        except (NatsUnavailableError, TimeoutError):
            # Without a leader for a while, or not created again yet.
            return
        self._is_recreated = self._is_recreated or str(info.created) != progress.identity
        if progress.is_stalled(int(info.state.last_seq)):
            raise NatsUnavailableError(STALLED)

    async def _list_keys(self) -> set[str]:
        """Return the keys, with those whose deletion is still stored."""
        prefix = f"$KV.{self.bucket}."
        info = await self._info(f"{prefix}>")
        return {subject.removeprefix(prefix) for subject in info.state.subjects or ()}

    async def newest_revision(self) -> int:
        """Return the revision of the last change. Raises `NatsUnavailableError`."""
        return int((await self._info()).state.last_seq)

    async def _info(self, subjects: str | None = None) -> StreamInfo:
        """Return the state of the bucket, with the number of messages of some subjects."""
        request = self._jetstream.stream_info(f"KV_{self.bucket}", subjects_filter=subjects)
        with translated_errors(f"KV_{self.bucket}"):
            return await honor_cancellation(request)


async def apply_buckets(jetstream: JetStreamContext, bus: JetStreamBusSettings) -> None:
    """Create the buckets, or bring their settings up to date."""
    await _apply(jetstream, bus, bus.lease_bucket, LEASES, bus.lease_ttl)
    await _apply(jetstream, bus, bus.state_bucket, STATE, 0.0)
    info = await jetstream.stream_info(f"KV_{bus.state_bucket}")
    if not info.config.allow_msg_ttl:
        await jetstream.update_stream(info.config.evolve(allow_msg_ttl=True))


async def _apply(
    jetstream: JetStreamContext, bus: JetStreamBusSettings, name: str, description: str, ttl: float
) -> None:
    info = await find_stream(jetstream, f"KV_{name}")
    if info is None:
        await jetstream.create_key_value(
            bucket=name,
            description=description,
            ttl=ttl or None,
            replicas=bus.replicas,
            storage=StorageType(bus.storage),
        )
        return
    config = info.config
    if (config.max_age or 0.0) != ttl or config.num_replicas != bus.replicas:
        values = {
            "max_age": ttl,
            "duplicate_window": ttl or config.duplicate_window,
            "num_replicas": bus.replicas,
        }
        await jetstream.update_stream(config.evolve(**values))


async def find_stream(jetstream: JetStreamContext, name: str) -> StreamInfo | None:
    """Return a stream, or None where it does not exist."""
    try:
        return await jetstream.stream_info(name)
    except NotFoundError:
        return None
