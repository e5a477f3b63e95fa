"""The one check of every route and of the WebSocket: who may, and whether they meant to.

A route says what it needs with one of the options below; one that says nothing is refused.
"""

import hmac
from typing import Any, Final

import structlog
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler

from almenara.panels.view import View
from almenara.scope import EMPTY_SCOPE
from almenara.security.auth_context import AuthContext
from almenara.security.identity import Role
from almenara.security.request import Refused, RequestInfo
from almenara.web.services import Services

log = structlog.get_logger(__name__)

Connection = ASGIConnection[Any, Any, Any, Any]

NEEDS: Final = "needs"
PUBLIC: Final[dict[str, Any]] = {NEEDS: None}
"""For everybody, signed in or not."""
VIEWER: Final[dict[str, Any]] = {NEEDS: Role.VIEWER}
ADMIN: Final[dict[str, Any]] = {NEEDS: Role.ADMIN}
UNLIMITED: Final[dict[str, Any]] = {NEEDS: Role.VIEWER, "unlimited": True}
"""For who sees what all sources say, because it cannot be told apart by scope."""
METRICS: Final[dict[str, Any]] = {**UNLIMITED, "metrics": True}
BY_OTHERS: Final[dict[str, Any]] = {**PUBLIC, "csrf": False}
"""For what another server sends, which proves itself in its own way."""

SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "x-csrf-token"
FORM_COOKIES: Final = ("__Host-almenara-form", "almenara-form")
"""What ties a form to a browser that has no session yet."""


class NotSignedInError(HTTPException):
    """It takes somebody who is signed in."""

    status_code = 401


class NotAllowedError(HTTPException):
    """Who is signed in may not do that."""

    status_code = 403


def ticket_of(connection: Connection) -> AuthContext | None:
    """Who makes a request; None where nobody is signed in."""
    found = connection.scope["state"].get("ticket")
    return found if isinstance(found, AuthContext) else None


def asking_of(connection: Connection) -> RequestInfo:
    """A request as far as it matters who makes it."""
    asking = connection.scope["state"]["asking"]
    if not isinstance(asking, RequestInfo):
        raise TypeError("the request did not pass the admission")
    return asking


def seen(services: Services, connection: Connection) -> View:
    """What there is to see for who makes a request."""
    ticket = ticket_of(connection)
    return services.hub.view.within(EMPTY_SCOPE if ticket is None else ticket.identity.scope)


async def permit(connection: Connection, handler: BaseRouteHandler) -> None:
    """Raise where a request may not be answered: nobody is signed in, it takes another role, or a
    form was not one of ours."""
    rule = handler.opt
    if NEEDS not in rule:
        log.error("a route says nothing of who may use it", route=str(handler))
        raise NotAllowedError("This address is closed, because nobody said who may use it.")
    ticket = ticket_of(connection)
    services: Services = connection.app.state.services
    opened = rule.get("metrics") and services.settings.auth.public_metrics
    if rule[NEEDS] is not None and not opened:
        refusal = connection.scope["state"].get("refusal")
        if isinstance(refusal, Refused):
            raise HTTPException(detail=refusal.detail, status_code=refusal.status)
        if ticket is None:
            raise NotSignedInError("Sign in first.")
        if ticket.identity.role < rule[NEEDS]:
            raise NotAllowedError(f"This takes the role {rule[NEEDS].name.lower()}.")
        if rule.get("unlimited") and not ticket.identity.scope.sees_all_sources:
            raise NotAllowedError("This is for who sees all sources.")
    if isinstance(connection, Request) and connection.method not in SAFE and rule.get("csrf", True):
        await _check_meant(connection, ticket)


def csrf_of(connection: Connection) -> str:
    """What a form has to hold so that it is known as ours; empty where a cookie must come first."""
    ticket = ticket_of(connection)
    if ticket is not None and ticket.session is not None:
        return ticket.session.csrf
    return asking_of(connection).cookie(*FORM_COOKIES)


async def _check_meant(request: Request[Any, Any, Any], ticket: AuthContext | None) -> None:
    if ticket is not None and ticket.by_header:
        # No browser sends that header by itself.
        return
    site = request.headers.get("sec-fetch-site", "same-origin")
    wanted = csrf_of(request)
    # The guard has compared the origin with ours; here it must be there.
    if site == "same-origin" and "origin" in request.headers and wanted:
        came = request.headers.get(CSRF_HEADER)
        if came is None:
            came = str((await request.form()).get(CSRF_FIELD, ""))
        if hmac.compare_digest(wanted.encode("utf-8", "replace"), came.encode("utf-8", "replace")):
            return
    raise NotAllowedError("The form is too old, or not one of ours. Go back, reload and try again.")
