"""Limits of a request: methods, the sizes of URL, headers and body, and the time for the body."""

import asyncio
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from litestar.enums import ScopeType
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, Receive, Scope, Send

from almenara.config import ServerSettings
from almenara.web.middleware.refusal import Refusal, send_refusal

METHODS: Final = frozenset(("GET", "HEAD", "POST"))
"""An allowlist: lists of dangerous methods have proved incomplete elsewhere."""
INTAKE_PATH: Final = "/intake/"
LONGEST_LENGTH: Final = 18
"""Digits of Content-Length."""


class BodyLimit(NamedTuple):
    """The largest body of a request."""

    size: int
    description: str

    @property
    def detail(self) -> str:
        return f"The body exceeds {self.description}."


class RequestLimitsMiddleware:
    """Refuses requests beyond the limits of `server.*`; bodies of pushes have a limit of their
    own, `max_intake_bytes`."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, max_intake_bytes: int = 0) -> None:
        self.app, self.settings = app, settings
        self.body_limit = BodyLimit(
            settings.max_body_bytes, f"{settings.max_body_bytes} bytes (server.max_body_bytes)"
        )
        largest = max(max_intake_bytes, settings.max_body_bytes)
        self.intake_limit = BodyLimit(largest, f"{largest} bytes (max_body_bytes of the intake)")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_push = scope["path"].startswith(INTAKE_PATH)
        body_limit = self.intake_limit if is_push else self.body_limit
        if (refusal := check_limits(scope, self.settings, body_limit)) is not None:
            await send_refusal(refusal, scope, receive, send)
            return
        if scope["type"] == ScopeType.HTTP:
            receive = LimitedBody(receive, body_limit, self.settings.body_timeout).receive
        await self.app(scope, receive, send)


def check_limits(scope: Scope, settings: ServerSettings, body_limit: BodyLimit) -> Refusal | None:
    """Return why method, URL or headers of a request are refused; None where they are not."""
    path: Any = scope.get("raw_path") or b""
    query: Any = scope.get("query_string") or b""
    if len(path) + len(query) > settings.max_url_bytes:
        return Refusal(
            HTTPStatus.REQUEST_URI_TOO_LONG,
            "URL too long",
            f"The URL exceeds {settings.max_url_bytes} bytes (server.max_url_bytes).",
        )
    if sum(len(name) + len(value) for name, value in scope["headers"]) > settings.max_header_bytes:
        return Refusal(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            "Headers too large",
            f"The headers exceed {settings.max_header_bytes} bytes (server.max_header_bytes).",
        )
    method: Any = scope.get("method", "GET")
    if method not in METHODS:
        return Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "Method not allowed",
            f"The method {str(method)[:20]} is not supported.",
            headers=((b"allow", ", ".join(sorted(METHODS)).encode()),),
        )
    if scope["type"] != ScopeType.HTTP:
        return None
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    is_malformed = any(not text.isdigit() or len(text) > LONGEST_LENGTH for text in lengths)
    if is_malformed or len(lengths) > 1:
        return Refusal(HTTPStatus.BAD_REQUEST, "Bad request", "Content-Length is malformed.")
    if lengths and int(lengths[0]) > body_limit.size:
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large", body_limit.detail)
    return None


class LimitedBody:
    """Receives a body of bounded size and duration.

    Raises `ClientException` inside the application, because the response may have a status and a
    page of its own there.
    """

    def __init__(self, receive: Receive, limit: BodyLimit, seconds: float) -> None:
        self._receive, self._limit, self._seconds = receive, limit, seconds
        self._remaining = limit.size
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._is_complete = False

    async def receive(self) -> Any:
        """Return the next ASGI message."""
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message: Any = await self._receive()
        except TimeoutError:
            raise ClientException(
                f"The body was not complete within {self._seconds:g} s (server.body_timeout).",
                status_code=HTTPStatus.REQUEST_TIMEOUT,
            ) from None
        if message["type"] == "http.request":
            self._remaining -= len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._remaining < 0:
                raise ClientException(
                    self._limit.detail, status_code=HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                )
        return message
