"""The NATS side of the demo: streams, the messages of the fleet, and a consumer that stalls."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from almenara.sdk import honor_cancellation
from almenara_demo.fleet import Fleet, Message

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


async def create_streams(url: str) -> None:
    """Create the streams of the fleet."""
    import nats
    from nats.js.api import StreamConfig

    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        for name, subject in STREAMS.items():
            await jetstream.add_stream(
                StreamConfig(name=name, subjects=[subject], max_age=MAX_AGE, max_bytes=MAX_BYTES)
            )
    finally:
        await client.close()


async def publish_messages(
    url: str, rate: float, seed: int, accept: Callable[[Message], None]
) -> None:
    """Publish the messages of the fleet, `rate` a second on average, until cancelled; `accept` is
    called with each."""
    import nats

    client = await honor_cancellation(nats.connect(url, max_reconnect_attempts=-1))
    try:
        jetstream = client.jetstream()
        clock = asyncio.get_running_loop().time
        due = clock()
        batch: list[Message] = []
        for message in Fleet(seed).messages(rate):
            due += message.wait
            batch.append(message)
            accept(message)
            ahead = due - clock()
            # While behind schedule, publish in larger batches instead of dropping messages.
            if ahead <= 0 and len(batch) < BATCH:
                continue
            async with asyncio.TaskGroup() as group:
                for item in batch:
                    group.create_task(
                        jetstream.publish(item.subject, item.payload, headers=item.headers or None)
                    )
            batch.clear()
            await asyncio.sleep(max(ahead, 0))
    finally:
        await client.close()


async def run_stalling_consumer(url: str) -> None:
    """Consume a stream, acknowledging for a while and then not, until cancelled."""
    import nats

    client = await honor_cancellation(nats.connect(url, max_reconnect_attempts=-1))
    try:
        subscription = await honor_cancellation(
            client.jetstream().pull_subscribe(
                "context.>", durable=STALLING_CONSUMER, stream="CONTEXT_EVENTS"
            )
        )
        clock = asyncio.get_running_loop().time
        started = clock()
        while True:
            is_acknowledging = int((clock() - started) // STALL_PERIOD) % 2 == 0
            # nats.errors.TimeoutError is a TimeoutError too, and the client raises both.
            with contextlib.suppress(TimeoutError):
                for message in await honor_cancellation(subscription.fetch(20, timeout=2)):
                    if is_acknowledging:
                        await message.ack()
            await asyncio.sleep(1)
    finally:
        await client.close()
