"""Snapshots of the history of replicas, as an object store of JetStream.

Objects have the layout that `nats object` reads. Each write has chunk messages of its own, and an
object exists once its description is published, so that an interrupted write changes nothing.
"""

import base64
import json
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    ObjectInfo,
    ObjectMetaOptions,
    StorageType,
    StreamInfo,
)
from nats.js.errors import BadObjectMetaError, Error as JetStreamError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from almenara.sdk import finish_within, honor_cancellation
from almenara_nats.bus_settings import JetStreamBusSettings
from almenara_nats.errors import translated_errors

CHUNK: Final = 128 * 1024
GET_TIMEOUT: Final = 15.0
"""Seconds until a chunk that does not arrive is given up."""
CLOSE_TIMEOUT: Final = 1.0
ROLLUP: Final = {"Nats-Rollup": "sub"}
DESCRIPTION: Final = "Snapshots of the history of Almenara."


class JetStreamObjects:
    """The objects of one bucket."""

    def __init__(self, jetstream: JetStreamContext, bucket: str) -> None:
        self.bucket, self.stream = bucket, f"OBJ_{bucket}"
        self._jetstream = jetstream
        # Opened without a request to the server.
        self._store = ObjectStore(name=bucket, stream=self.stream, js=jetstream)

    async def names(self) -> set[str]:
        """Return the names of the objects. Raises `NatsUnavailableError`."""
        start = f"$O.{self.bucket}.M."
        return {
            base64.urlsafe_b64decode(subject.removeprefix(start)).decode()
            for subject in await self._count_messages(f"{start}>")
        }

    async def put(self, name: str, content: bytes) -> None:
        """Store an object. Raises `NatsUnavailableError`."""
        own = f"{name}-{uuid.uuid4().hex[:12]}"
        chunks = 0
        with translated_errors(self.stream):
            for chunk in split(content):
                await honor_cancellation(
                    self._jetstream.publish(f"$O.{self.bucket}.C.{own}", chunk, stream=self.stream)
                )
                chunks += 1
            info = ObjectInfo(
                name=name, bucket=self.bucket, nuid=own, size=len(content), chunks=chunks,
                mtime=datetime.now(UTC).isoformat(), digest=f"SHA-256={encode_digest(content)}",
                options=ObjectMetaOptions(max_chunk_size=CHUNK),
            )  # fmt: skip
            await honor_cancellation(
                self._jetstream.publish(
                    self._describe_subject(name),
                    json.dumps(info.as_dict()).encode(),
                    stream=self.stream,
                    headers=ROLLUP,
                )
            )

    async def get(self, name: str) -> bytes | None:
        """Return the content of an object; None where it is missing or damaged.

        Raises `NatsUnavailableError`.
        """
        with translated_errors(self.stream):
            try:
                info = await honor_cancellation(self._store.get_info(name))
            except (ObjectNotFoundError, BadObjectMetaError):
                return None
            chunks = f"$O.{self.bucket}.C.{info.nuid}"
            # A chunk that is missing would be waited for.
            if (await self._count_messages(chunks)).get(chunks, 0) < (info.chunks or 0):
                return None
            content = await self._read_chunks(chunks, info.size or 0)
        return content if f"SHA-256={encode_digest(content)}" == info.digest else None

    async def _read_chunks(self, subject: str, size: int) -> bytes:
        content = bytearray()
        chunks = await honor_cancellation(
            self._jetstream.subscribe(subject, stream=self.stream, ordered_consumer=True)
        )
        try:
            while len(content) < size:
                message = await honor_cancellation(chunks.next_msg(timeout=GET_TIMEOUT))
                content += message.data
        finally:
            with suppress(NatsError, JetStreamError, TimeoutError, OSError):
                await finish_within(CLOSE_TIMEOUT, chunks.unsubscribe())
        return bytes(content)

    async def discard(self, name: str) -> None:
        """Delete the description of an object; `retain` deletes its chunks.

        Raises `NatsUnavailableError`.
        """
        await self._purge(self._describe_subject(name))

    async def retain(self, names: Collection[str]) -> None:
        """Delete all objects but these. Raises `NatsUnavailableError`."""
        used: set[str] = set()
        for name in await self.names():
            if name in names:
                used.add(await self._find_chunks(name))
            else:
                await self._purge(self._describe_subject(name))
        for subject in await self._count_messages(f"$O.{self.bucket}.C.>"):
            if subject not in used:
                await self._purge(subject)

    def _describe_subject(self, name: str) -> str:
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _find_chunks(self, name: str) -> str:
        with translated_errors(self.stream):
            info = await honor_cancellation(self._store.get_info(name))
        return f"$O.{self.bucket}.C.{info.nuid}"

    async def _count_messages(self, pattern: str) -> dict[str, int]:
        """Return how many messages there are of each subject that matches."""
        with translated_errors(self.stream):
            info = await honor_cancellation(
                self._jetstream.stream_info(self.stream, subjects_filter=pattern)
            )
        return info.state.subjects or {}

    async def _purge(self, subject: str) -> None:
        with translated_errors(self.stream):
            await honor_cancellation(self._jetstream.purge_stream(self.stream, subject=subject))


def encode_digest(content: bytes) -> str:
    """Return the digest of an object as its description has it."""
    return base64.urlsafe_b64encode(sha256(content).digest()).decode()


def split(content: bytes) -> Iterator[bytes]:
    """Yield the chunks of an object."""
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK]


async def apply_object_store(
    jetstream: JetStreamContext, bus: JetStreamBusSettings, info: StreamInfo | None
) -> None:
    """Create the bucket, or bring the number of its copies up to date; `info` is its stream."""
    if info is None:
        await jetstream.create_object_store(
            bucket=bus.snapshot_bucket,
            description=DESCRIPTION,
            replicas=bus.replicas,
            storage=StorageType(bus.storage),
        )
    elif info.config.num_replicas != bus.replicas:
        await jetstream.update_stream(info.config.evolve(num_replicas=bus.replicas))
