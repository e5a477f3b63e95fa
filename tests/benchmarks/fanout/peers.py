"""Alternatives to Almenara, fed by the same events: `peers.py <which> <port> <port of NATS>`.

`naive` is the broadcaster of most dashboards: for each event one JSON frame to each socket, in a
loop. `plugin` is Litestar's own ChannelsPlugin with one message for each event. Both store and
render nothing. `nats-py` serves no viewers: it reads the stream as its documentation recommends and
acknowledges; `/read` returns how many messages it has read.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import nats
import nats.errors
import uvicorn
from litestar import Litestar
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

SUBJECTS: Final = "bench.>"
BACKLOG: Final = 1_000
BATCH: Final = 500

Handle = Callable[[dict[str, Any]], Awaitable[None]]


@contextlib.asynccontextmanager
async def subscribe_events(port: int, handle: Handle) -> AsyncIterator[None]:
    async def take(message: Msg) -> None:
        await handle(json.loads(message.data))

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    await client.subscribe(SUBJECTS, cb=take)
    yield
    await client.close()


def make_naive(port: int) -> Any:
    sockets: set[WebSocket] = set()

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        sockets.add(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            pass
        finally:
            sockets.discard(socket)

    async def broadcast(event: dict[str, Any]) -> None:
        text = json.dumps(event, separators=(",", ":"))
        for socket in list(sockets):
            try:
                await socket.send_text(text)
            except (WebSocketDisconnect, RuntimeError):
                sockets.discard(socket)

    def lifespan(app: Starlette) -> contextlib.AbstractAsyncContextManager[None]:
        return subscribe_events(port, broadcast)

    return Starlette(routes=[WebSocketRoute("/live", live)], lifespan=lifespan)


def make_plugin(port: int) -> Any:
    channels = ChannelsPlugin(
        backend=MemoryChannelsBackend(),
        channels=["live"],
        create_ws_route_handlers=True,
        subscriber_max_backlog=BACKLOG,
        subscriber_backlog_strategy="dropleft",
    )

    async def broadcast(event: dict[str, Any]) -> None:
        channels.publish(json.dumps(event, separators=(",", ":")), "live")
        # `publish` does not wait, so the plugin's own tasks need a turn.
        await asyncio.sleep(0)

    return Litestar(
        plugins=[channels],
        lifespan=[lambda app: subscribe_events(port, broadcast)],
        logging_config=None,
    )


def make_reader(port: int) -> Any:
    read = 0

    async def read_messages() -> None:
        nonlocal read
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        jetstream = client.jetstream()
        config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=BATCH * 20)
        subscription = await jetstream.pull_subscribe(
            SUBJECTS, durable="reader", stream="BENCH", config=config
        )
        while True:
            with contextlib.suppress(nats.errors.TimeoutError):
                batch = await subscription.fetch(BATCH, timeout=0.1)
                # One acknowledgement for the whole batch: the least work possible.
                await batch[-1].ack()
                read += len(batch)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(read_messages())
        yield
        task.cancel()

    async def count(request: Request) -> JSONResponse:
        return JSONResponse(read)

    return Starlette(routes=[Route("/read", count)], lifespan=lifespan)


PEERS: Final = {"naive": make_naive, "plugin": make_plugin, "nats-py": make_reader}


def main() -> None:
    which, port, nats_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    uvicorn.run(
        PEERS[which](nats_port),
        port=port,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        backlog=4096,
    )


if __name__ == "__main__":
    main()
