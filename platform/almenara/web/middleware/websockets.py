"""The limit of open WebSockets, `server.max_websockets`."""

from collections.abc import Callable
from http import HTTPStatus

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from almenara.web.middleware.refusal import Refusal, send_refusal


class WebSocketLimitMiddleware:
    """Refuses WebSockets beyond the limit, handshakes in progress included."""

    def __init__(self, app: ASGIApp, limit: int, count_open: Callable[[], int]) -> None:
        self.app, self.limit, self.count_open = app, limit, count_open
        self._pending = 0
        """Handshakes that `count_open` does not include yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.WEBSOCKET:
            await self.app(scope, receive, send)
            return
        if self.count_open() + self._pending >= self.limit:
            refusal = Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many connections",
                f"{self.limit} live pages are open, which is the limit. Close one, or raise"
                " server.max_websockets.",
            )
            await send_refusal(refusal, scope, receive, send)
            return
        self._pending += 1
        is_pending = True

        async def send_counted(message: Message) -> None:
            nonlocal is_pending
            await send(message)
            if is_pending and message["type"] in ("websocket.accept", "websocket.close"):
                is_pending = False
                self._pending -= 1

        try:
            await self.app(scope, receive, send_counted)
        finally:
            if is_pending:
                self._pending -= 1
