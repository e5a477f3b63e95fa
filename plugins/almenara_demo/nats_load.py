"""The NATS side of the demo: streams, the messages of the fleet, and a consumer that stalls."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from almenara.sdk import honor_cancellation
from almenara_demo.fleet import Fleet, Message
from almenara_demo.processes import pause

STREAMS: Final = {
    "PLANNING_EVENTS": "planning.>",
    "ORCHESTRATOR_EVENTS": "orchestration.>",
    "CONTEXT_EVENTS": "context.>",
    "AGENT_RESULTS": "agent.>",
    "VLLM_STREAMING": "vllm.streaming.*",
    "DEAD_LETTERS": "deadletter",
}
"""Subjects by stream."""
MAX_AGE: Final = 7 * 86400
"""Seconds that a stream stores its messages."""
MAX_BYTES: Final = 1024**3
BATCH: Final = 200
"""Messages published at once at most."""
STALLING_CONSUMER: Final = "context-indexer"
"""A consumer that stops acknowledging from time to time, as an example of a stalled one."""
STALL_PERIOD: Final = 90
"""Seconds that it acknowledges, and then does not."""
LEADER_LIMIT: Final = 60.0
"""Seconds within which a cluster must have a leader."""
RETRY_PAUSE: Final = 0.5
READER: Final = "almenara"
"""The consumer of Almenara in each stream."""
READ_INTERVAL: Final = 0.05
READ_LIMIT: Final = 5.0
"""Seconds within which Almenara reads the last messages."""


async def create_streams(urls: list[str]) -> None:
    """Create the streams of the fleet, with a copy on each server.

    A cluster refuses them until it has a leader.
    """
    import nats
    from nats.errors import Error as NatsError
    from nats.js.api import StreamConfig

    client = await nats.connect(urls)
    clock = asyncio.get_running_loop().time
    deadline = clock() + LEADER_LIMIT
    try:
        jetstream = client.jetstream()
        for name, subject in STREAMS.items():
            config = StreamConfig(
                name=name, subjects=[subject], max_age=MAX_AGE, max_bytes=MAX_BYTES,
                num_replicas=len(urls),
            )  # fmt: skip
            while True:
                try:
                    await jetstream.add_stream(config)
                    break
                except (NatsError, TimeoutError):
                    if len(urls) == 1 or clock() > deadline:
                        raise
                    await asyncio.sleep(RETRY_PAUSE)
    finally:
        await client.close()


async def publish_messages(
    urls: list[str],
    rate: float,
    seed: int,
    accept: Callable[[Message], None],
    stopping: asyncio.Event,
) -> None:
    """Publish the messages of the fleet, `rate` a second on average, until the demo is stopping;
    `accept` is called with each.

    The agents finish their work at once then: the next demo in the folder would wait for it.
    """
    client = await honor_cancellation(connect_patiently(urls))
    try:
        jetstream = client.jetstream()
        clock = asyncio.get_running_loop().time
        due = clock()
        batch: list[Message] = []
        fleet = Fleet(seed)
        for message in fleet.messages(rate):
            due += message.wait
            batch.append(message)
            accept(message)
            ahead = due - clock()
            # While behind schedule, publish in larger batches instead of dropping messages.
            if ahead <= 0 and len(batch) < BATCH:
                continue
            await publish_batch(jetstream, batch)
            batch.clear()
            if await pause(max(ahead, 0), stopping):
                break
        last = list(fleet.finish())
        for message in last:
            accept(message)
        await publish_batch(jetstream, last)
        await wait_until_read(jetstream)
    finally:
        await client.close()


async def publish_batch(jetstream: Any, batch: Sequence[Message]) -> None:
    """Publish messages at the same time."""
    async with asyncio.TaskGroup() as group:
        for message in batch:
            group.create_task(publish_message(jetstream, message))


async def wait_until_read(jetstream: Any) -> None:
    """Wait until Almenara has stored what the streams have, or for some seconds."""
    from nats.errors import Error as NatsError

    with contextlib.suppress(NatsError, TimeoutError):
        async with asyncio.timeout(READ_LIMIT):
            for stream in STREAMS:
                while True:
                    consumer = await honor_cancellation(jetstream.consumer_info(stream, READER))
                    if not consumer.num_pending and not consumer.num_ack_pending:
                        break
                    await asyncio.sleep(READ_INTERVAL)


async def publish_message(jetstream: Any, message: Message) -> None:
    """Publish a message until a server acknowledges it.

    The server stores it once: the id, which is the same each time, has it drop the others.
    """
    from nats.errors import Error as NatsError

    headers = {**message.headers, "Nats-Msg-Id": uuid.uuid4().hex}
    while True:
        try:
            await honor_cancellation(
                jetstream.publish(message.subject, message.payload, headers=headers)
            )
        except (NatsError, TimeoutError):
            await asyncio.sleep(RETRY_PAUSE)
        else:
            return


async def connect_patiently(urls: list[str]) -> Any:
    """Connect to one of the servers, and to another one whenever that ends."""
    import nats

    async def ignore(error: Exception) -> None:
        """The connection is made again, and its log is that of the servers."""

    return await nats.connect(
        urls, max_reconnect_attempts=-1, reconnect_time_wait=RETRY_PAUSE, error_cb=ignore
    )


async def run_stalling_consumer(urls: list[str]) -> None:
    """Consume a stream, acknowledging for a while and then not, until cancelled."""
    from nats.errors import Error as NatsError

    client = await honor_cancellation(connect_patiently(urls))
    clock = asyncio.get_running_loop().time
    started = clock()
    try:
        while True:
            # As a worker does, it subscribes again where a server has failed.
            with contextlib.suppress(NatsError):
                await _consume(client, lambda: int((clock() - started) // STALL_PERIOD) % 2 == 0)
            await asyncio.sleep(RETRY_PAUSE)
    finally:
        await client.close()


async def _consume(client: Any, is_acknowledging: Callable[[], bool]) -> None:
    subscription = await honor_cancellation(
        client.jetstream().pull_subscribe(
            "context.>", durable=STALLING_CONSUMER, stream="CONTEXT_EVENTS"
        )
    )
    while True:
        # nats.errors.TimeoutError is a TimeoutError too, and the client raises both.
        with contextlib.suppress(TimeoutError):
            for message in await honor_cancellation(subscription.fetch(20, timeout=2)):
                if is_acknowledging():
                    await message.ack()
        await asyncio.sleep(1)
