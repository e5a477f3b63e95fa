"""The messages of the demo's fleet, published to a NATS server that does not answer for a while."""

import asyncio

import nats
import pytest

from almenara_demo.fleet import Message
from almenara_demo.nats_load import create_streams, publish_batch
from support.nats_source import until
from support.servers import NatsServer

MESSAGES = 3

pytestmark = pytest.mark.anyio


async def test_publish_batch_stores_each_message_once_where_the_server_answers_late(
    nats_server: NatsServer,
) -> None:
    await create_streams([nats_server.url])
    client = await nats.connect(nats_server.url)
    try:
        # The client waits this long for an answer, and then raises.
        jetstream = client.jetstream(timeout=0.2)
        batch = [Message(f"agent.results.{number}", b"{}") for number in range(MESSAGES)]
        nats_server.freeze()
        try:
            publishing = asyncio.create_task(publish_batch(jetstream, batch))
            await until(
                lambda: client.stats["out_msgs"] >= 2 * MESSAGES or publishing.done(),
                "each message published twice",
            )
        finally:
            nats_server.thaw()
        await publishing
        stream = await client.jetstream().stream_info("AGENT_RESULTS")
        assert stream.state.messages == MESSAGES
    finally:
        await client.close()
