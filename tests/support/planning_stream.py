"""Events on the stream PLANNING_EVENTS of a real NATS server, and the live page that shows them."""

import nats
from nats.js.api import StreamConfig

from support.application import Almenara
from support.servers import NatsServer


async def publish_planning(server: NatsServer, *payloads: bytes) -> None:
    """Create the stream where it is missing, and publish the payloads to `planning.a`."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="PLANNING_EVENTS", subjects=["planning.>"]))
    for payload in payloads:
        await jetstream.publish("planning.a", payload)
    await client.close()


def live_url(almenara: Almenara) -> str:
    """The WebSocket address of the panel of events."""
    return f"ws://127.0.0.1:{almenara.port}/live?panel=events"
