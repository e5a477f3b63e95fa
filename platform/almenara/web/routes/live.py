"""The WebSocket: frames of channels to the browser, and the resume message from it."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.connection.base import empty_receive, empty_send
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from almenara.cancellation import cancel_and_wait
from almenara.errors import AlmenaraError
from almenara.live.hub import Hub
from almenara.live.outbox import GOING_AWAY, Outbox
from almenara.scope import Scope
from almenara.security.errors import Unauthenticated
from almenara.web.authorization import VIEWER, limited_user
from almenara.web.protocol import EXTENSION, AsgiPeer, LiveProtocol
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

log = structlog.get_logger(__name__)

INTERNAL_ERROR: Final = 1011
POLICY_VIOLATION: Final = 1008
MESSAGES_PER_SECOND: Final = 20
LARGEST_SEQUENCE: Final = 2**63 - 1
LONGEST_SEQUENCE: Final = 20
"""Digits."""


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """The only message of a page: continue after the newest row that it shows."""

    resume: int


@websocket("/live", name="live", opt=VIEWER)
async def live(socket: WebSocket[Any, Any, Any], services: NamedDependency[Services]) -> None:
    """Send the frames of the channels in the parameters `panel`, starting after the row `after`."""
    hub, context = services.hub, get_auth_context(socket)
    if context is None:
        raise Unauthenticated("Sign in first.")
    await socket.accept()
    if hub.draining:
        await socket.close(GOING_AWAY)
        return
    names = socket.query_params.getall("panel", [])
    after = _parse_sequence(socket.query_params.get("after"))
    extensions: Any = socket.scope["extensions"]
    peer: LiveProtocol | AsgiPeer = extensions.get(EXTENSION) or AsgiPeer(socket)
    outbox = peer.outbox = hub.connect(peer, limited_user(services, context))
    connections = services.access.connections
    connection = connections.add(context, get_request_info(socket).address, outbox.close)
    try:
        async with peer.writing() if isinstance(peer, AsgiPeer) else contextlib.nullcontext():
            if isinstance(peer, LiveProtocol):
                peer.forget_handshake()
            # Beside it, so that a page that is closed while its panels are read ends at once.
            subscribing = asyncio.create_task(
                _subscribe(services, outbox, names, after, context.identity.scope)
            )
            try:
                await _receive_messages(socket, hub, outbox)
            finally:
                await cancel_and_wait(subscribing)
    except Exception:
        # An exception that reaches uvicorn closes the socket without a log entry.
        log.exception("a live page ended with an error")
        outbox.close(INTERNAL_ERROR)
    finally:
        connections.remove(connection)
        peer.outbox = None
        hub.disconnect(outbox)
    if outbox.close_code is not None:
        await peer.close(outbox.close_code, hub.settings.send_timeout)
    # Litestar's reference cycle through these would keep the socket until a garbage collection.
    socket.receive, socket.send = empty_receive, empty_send


async def _subscribe(
    services: Services, outbox: Outbox, names: Sequence[str], after: int | None, scope: Scope
) -> None:
    """Subscribe to the channels, or close the connection."""
    try:
        if after is not None:
            await services.bus.reach(after)
        await services.hub.subscribe(outbox, names, after, scope)
    except (ValueError, AlmenaraError):
        outbox.close(POLICY_VIOLATION)
    except Exception:
        log.exception("a live page could not be subscribed")
        outbox.close(INTERNAL_ERROR)


async def _receive_messages(socket: WebSocket[Any, Any, Any], hub: Hub, outbox: Outbox) -> None:
    """Handle messages until the connection ends or has to be closed."""
    received: deque[float] | None = None
    while outbox.close_code is None:
        try:
            text = await socket.receive_text()
        except (WebSocketDisconnect, UnicodeError, KeyError):
            return
        moment = time.monotonic()
        if received is None:
            received = deque(maxlen=MESSAGES_PER_SECOND)
        if len(received) == MESSAGES_PER_SECOND and moment - received[0] < 1.0:
            outbox.close(POLICY_VIOLATION)
            return
        received.append(moment)
        try:
            message = msgspec.json.decode(text, type=Resume)
        except (msgspec.MsgspecError, RecursionError, TypeError):
            outbox.close(POLICY_VIOLATION)
            return
        hub.resume(outbox, message.resume)


def _parse_sequence(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(int(text[:LONGEST_SEQUENCE]), LARGEST_SEQUENCE)
