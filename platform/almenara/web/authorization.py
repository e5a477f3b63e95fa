"""Authorization of every route and of the WebSocket: the role it requires, and the CSRF check.

A route declares its rule with one of the options below; a route without a rule is refused. The
rules are in `web` because they are options of routes; `security` resolves who the caller is.
"""

from typing import Any, Final

import structlog
from litestar import Request
from litestar.handlers import BaseRouteHandler

from almenara.panels.view import View
from almenara.scope import EMPTY_SCOPE
from almenara.security.auth_context import AuthContext
from almenara.security.errors import AccessDenied, AuthError, Unauthenticated
from almenara.security.identity import Role
from almenara.security.modes import SIGN_IN_OFF
from almenara.security.trusted_proxies import rate_key
from almenara.web.csrf import SessionEnded, check_csrf, is_own_form, read_fields
from almenara.web.services import Services
from almenara.web.state import Connection, get_auth_context, get_request_info

log = structlog.get_logger(__name__)

REQUIRED_ROLE: Final = "required_role"
PUBLIC: Final[dict[str, Any]] = {REQUIRED_ROLE: None}
"""For everyone, signed in or not."""
VIEWER: Final[dict[str, Any]] = {REQUIRED_ROLE: Role.VIEWER}
OPERATOR: Final[dict[str, Any]] = {REQUIRED_ROLE: Role.OPERATOR}
ADMIN: Final[dict[str, Any]] = {REQUIRED_ROLE: Role.ADMIN}
ALL_SOURCES: Final[dict[str, Any]] = {REQUIRED_ROLE: Role.VIEWER, "all_sources": True}
"""For viewers who see all sources, because the response cannot be narrowed to a scope."""
OPERATOR_OF_ALL_SOURCES: Final[dict[str, Any]] = {**OPERATOR, "all_sources": True}
ADMIN_OF_ALL_SOURCES: Final[dict[str, Any]] = {**ADMIN, "all_sources": True}
METRICS: Final[dict[str, Any]] = {**ALL_SOURCES, "metrics": True}
INTAKE: Final[dict[str, Any]] = {REQUIRED_ROLE: Role.ADMIN, "all_sources": True, "intake": True,
                                 "csrf": False}  # fmt: skip
"""For tokens of an intake, and for tokens of admins without a limited scope. A webhook with a
signature needs no token. Sessions and cookies do not count, so no page can cause a push."""
SERVER_TO_SERVER: Final[dict[str, Any]] = {**PUBLIC, "csrf": False}
"""For requests of another server, which are authenticated by their content."""

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))


def scoped_view(services: Services, connection: Connection) -> View:
    """Return the data view of a request, limited to the caller's scope."""
    context = get_auth_context(connection)
    if context is None:
        return services.hub.view.within(EMPTY_SCOPE)
    # Without sign-in everyone is the same user, and queries are shared fairly between addresses.
    address = get_request_info(connection).address
    caller = limited_user(services, context) or f"address {rate_key(address)}"
    return services.hub.view.within(context.identity.scope, caller)


def limited_user(services: Services, context: AuthContext) -> str:
    """Return whose limits a request counts to, over all sessions; empty without sign-in."""
    return "" if services.access.mode in SIGN_IN_OFF else context.identity.user.subject


async def authorize(connection: Connection, handler: BaseRouteHandler) -> None:
    """Raise `AuthError` where the caller lacks the role, or a form was not sent by our own page."""
    rule = handler.opt
    if REQUIRED_ROLE not in rule:
        log.error("a route has no authorization rule", route=str(handler))
        raise AccessDenied("This address is closed, because its route has no authorization rule.")
    context = get_auth_context(connection)
    services: Services = connection.app.state.services
    if rule.get("intake") and _may_push(connection, context, services):
        return
    is_open = rule.get("metrics") and services.settings.auth.public_metrics
    if rule[REQUIRED_ROLE] is not None and not is_open:
        error = connection.scope["state"].get("auth_error")
        if isinstance(error, AuthError):
            raise error
        if context is None:
            if isinstance(connection, Request) and connection.method not in SAFE_METHODS:
                await _refuse_form(connection)
            raise Unauthenticated("Sign in first.")
        if context.identity.role < rule[REQUIRED_ROLE]:
            raise AccessDenied(f"This needs the role {rule[REQUIRED_ROLE].name.lower()}.")
        if rule.get("all_sources") and not context.identity.scope.sees_all_sources:
            raise AccessDenied("This needs a scope that includes all sources.")
    needs_csrf = rule.get("csrf", True)
    if needs_csrf and isinstance(connection, Request) and connection.method not in SAFE_METHODS:
        await check_csrf(connection)


def _may_push(connection: Connection, context: AuthContext | None, services: Services) -> bool:
    """Return whether a token or a signature permits the push; the handler checks the latter and for
    which intake the token is.

    False leaves the decision to the role. Raises `Unauthenticated` where there is no token.
    """
    name = connection.path_params.get("name")
    if isinstance(name, str) and services.intakes.has_signature(name):
        return True
    if context is None or not context.from_header:
        raise Unauthenticated(
            "Send a token in the Authorization header: `almenara access create NAME --intake"
            " INTAKE` creates one."
        )
    return bool(context.identity.intake)


async def _refuse_form(request: Request[Any, Any, Any]) -> None:
    """Raise `SessionEnded` for a form of our own page, so that its input is not lost."""
    if is_own_form(request):
        raise SessionEnded(await read_fields(request))
