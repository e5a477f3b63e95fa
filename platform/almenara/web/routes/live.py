"""The WebSocket: frames of channels out, and next to nothing in."""

import contextlib
import time
from collections import deque
from typing import Any, Final

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.connection.base import empty_receive, empty_send
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from almenara.errors import AlmenaraError
from almenara.live.hub import Hub
from almenara.live.outbox import GOING_AWAY, Outbox
from almenara.web.authorization import VIEWER, NotSignedInError, asking_of, ticket_of
from almenara.web.protocol import EXTENSION, AsgiPeer, LiveProtocol
from almenara.web.services import Services

log = structlog.get_logger(__name__)

FAILED: Final = 1011
ABUSE: Final = 1008
MESSAGES_PER_SECOND: Final = 20
LARGEST_SEQUENCE: Final = 2**63 - 1


class Resume(msgspec.Struct, forbid_unknown_fields=True):
    """What a page may say: that it wants to go on from the newest row it shows."""

    resume: int


@websocket("/live", name="live", opt=VIEWER)
async def live(socket: WebSocket[Any, Any, Any], services: NamedDependency[Services]) -> None:
    """Frames of the channels in the parameters `panel`, from the row `after` on."""
    channels, ticket = services.hub, ticket_of(socket)
    if ticket is None:
        raise NotSignedInError("Sign in first.")
    await socket.accept()
    if channels.draining:
        await socket.close(GOING_AWAY)
        return
    names = socket.query_params.getall("panel", [])
    after = _sequence(socket.query_params.get("after"))
    extensions: Any = socket.scope["extensions"]
    peer: LiveProtocol | AsgiPeer = extensions.get(EXTENSION) or AsgiPeer(socket)
    outbox = peer.outbox = channels.connect(peer)
    watched = services.authenticator.pages.opened(ticket, asking_of(socket).address, outbox.close)
    try:
        async with peer.writing() if isinstance(peer, AsgiPeer) else contextlib.nullcontext():
            try:
                await channels.subscribe(outbox, names, after, ticket.identity.scope)
            except (ValueError, AlmenaraError):
                outbox.close(ABUSE)
            if isinstance(peer, LiveProtocol):
                peer.forget_handshake()
            await _listen(socket, channels, outbox)
    except Exception:
        # What reaches uvicorn from here closes the socket and tells nobody.
        log.exception("a live page ended with an error")
        outbox.close(FAILED)
    finally:
        services.authenticator.pages.closed(watched)
        peer.outbox = None
        channels.disconnect(outbox)
    if outbox.close_code is not None:
        await peer.close(outbox.close_code, channels.settings.send_timeout)
    # The framework ties a socket to itself through these, and only a collection would free it.
    socket.receive, socket.send = empty_receive, empty_send


async def _listen(socket: WebSocket[Any, Any, Any], channels: Hub, outbox: Outbox) -> None:
    """Until the connection ends, or has to."""
    arrived: deque[float] | None = None
    while outbox.close_code is None:
        try:
            text = await socket.receive_text()
        except (WebSocketDisconnect, UnicodeError, KeyError):
            return
        moment = time.monotonic()
        if arrived is None:
            arrived = deque(maxlen=MESSAGES_PER_SECOND)
        if len(arrived) == MESSAGES_PER_SECOND and moment - arrived[0] < 1.0:
            outbox.close(ABUSE)
            return
        arrived.append(moment)
        try:
            message = msgspec.json.decode(text, type=Resume)
        except (msgspec.MsgspecError, RecursionError, TypeError):
            outbox.close(ABUSE)
            return
        channels.resume(outbox, message.resume)


def _sequence(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(int(text[:20]), LARGEST_SEQUENCE)
