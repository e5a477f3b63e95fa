"""The WebSocket: frames of channels out, and next to nothing in."""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any, Final

import msgspec
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from almenara.panels.channels import Channels
from almenara.panels.outbox import GOING_AWAY, Outbox
from almenara.panels.renderer import Frame
from almenara.scope import Scope
from almenara.web.permission import VIEWER, NotSignedInError, asking_of, ticket_of
from almenara.web.services import Services

ABUSE: Final = 1008
MESSAGES_PER_SECOND: Final = 20
BEAT: Final = 5.0
LARGEST_SEQUENCE: Final = 2**63 - 1


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """What a page may say: that it wants to go on from the newest row it shows."""

    resume: int


@websocket("/live", name="live", opt=VIEWER)
async def live(socket: WebSocket[Any, Any, Any], services: Services) -> None:
    """Frames of the channels in the parameters `panel`, from the row `after` on."""
    channels, ticket = services.channels, ticket_of(socket)
    if ticket is None:
        raise NotSignedInError("Sign in first.")
    await socket.accept()
    if channels.draining:
        await socket.close(GOING_AWAY)
        return
    names = socket.query_params.getall("panel", [])
    after = _sequence(socket.query_params.get("after"))
    outbox = channels.outbox()
    watched = services.access.opened(ticket, asking_of(socket).address, outbox.close)
    receiving = asyncio.create_task(_receive(socket, channels, outbox))
    joining = asyncio.create_task(_join(channels, outbox, names, after, ticket.identity.scope))
    beating = asyncio.create_task(_beat(services, outbox))
    background = (receiving, joining, beating)
    try:
        code = await outbox.deliver(socket.send_text)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(channels.settings.send_timeout):
                await socket.close(code)
    except WebSocketDisconnect:
        pass
    finally:
        services.access.closed(watched)
        channels.leave(outbox)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def _join(
    channels: Channels, outbox: Outbox, names: list[str], after: int | None, scope: Scope
) -> None:
    try:
        await channels.join(outbox, names, after, scope)
    except ValueError:
        outbox.close(ABUSE)


async def _receive(socket: WebSocket[Any, Any, Any], channels: Channels, outbox: Outbox) -> None:
    arrived: deque[float] = deque(maxlen=MESSAGES_PER_SECOND)
    while True:
        try:
            text = await socket.receive_text()
        except Exception:
            # Whatever ended the connection, there is nobody left to tell.
            outbox.close(GOING_AWAY)
            return
        moment = time.monotonic()
        if len(arrived) == MESSAGES_PER_SECOND and moment - arrived[0] < 1.0:
            outbox.close(ABUSE)
            return
        arrived.append(moment)
        try:
            message = msgspec.json.decode(text, type=Resume)
        except (msgspec.MsgspecError, RecursionError):
            outbox.close(ABUSE)
            return
        await channels.resume(outbox, message.resume)


async def _beat(services: Services, outbox: Outbox) -> None:
    """Signs of life, by which a page tells a quiet fleet from a frozen server."""
    while True:
        await asyncio.sleep(BEAT)
        text = f'{{"beat": {services.bus.last_sequence}}}'
        outbox.put(None, Frame(text, len(text), rows=False))


def _sequence(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(int(text[:20]), LARGEST_SEQUENCE)
