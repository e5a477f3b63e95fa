"""Stops the work for clients that have hung up."""

import asyncio
import contextlib
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send


class DisconnectMiddleware:
    """Cancels the handling of a request when its client disconnects before the response.

    A query of history that no one waits for any more would still take its turn.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        relay = _Relay(receive, send)
        handling = asyncio.ensure_future(self.app(scope, relay.receive, relay.send))
        watching = asyncio.ensure_future(relay.watch(handling))
        try:
            await handling
        except asyncio.CancelledError:
            # Cancelled by us, which is no error; or with this request, which is passed on.
            if not relay.is_disconnected:
                handling.cancel()
                raise
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


class _Relay:
    """Passes messages on, and reads ahead so that a disconnection is noticed."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._messages: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        """Messages, or the exception that receiving one has raised."""
        self._has_response = False
        self.is_disconnected = False

    async def watch(self, handling: "asyncio.Future[None]") -> None:
        """Read messages until the client disconnects, and cancel the handling then."""
        while True:
            try:
                message = await self._receive()
            except Exception as error:
                # A body that is too large or too slow is refused where the handler reads it.
                await self._messages.put(error)
                return
            if message["type"] == "http.disconnect" and not self._has_response:
                self.is_disconnected = True
                handling.cancel()
            await self._messages.put(message)
            if message["type"] == "http.disconnect":
                return

    async def receive(self) -> HTTPReceiveMessage:
        """Return the next message to the handler."""
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        received: HTTPReceiveMessage = message
        return received

    async def send(self, message: Message) -> None:
        """Send a message of the handler."""
        # A response that has started ends by itself: writing to a client that is gone is cheap, and
        # a streamed one watches for the disconnection.
        self._has_response = True
        await self._send(message)
