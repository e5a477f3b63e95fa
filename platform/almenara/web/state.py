"""What the authentication middleware stored in the state of a request."""

from typing import Any

from litestar.connection import ASGIConnection

from almenara.security.auth_context import AuthContext
from almenara.security.errors import Unauthenticated
from almenara.security.identity import Identity
from almenara.security.request import RequestInfo

Connection = ASGIConnection[Any, Any, Any, Any]


def get_auth_context(connection: Connection) -> AuthContext | None:
    """Return the identity of a request; None where no one is signed in."""
    context = connection.scope["state"].get("auth_context")
    return context if isinstance(context, AuthContext) else None


def get_identity(connection: Connection) -> Identity:
    """Return who sent a request. Raises `Unauthenticated` where no one is signed in."""
    context = get_auth_context(connection)
    if context is None:
        raise Unauthenticated("Sign in first.")
    return context.identity


def get_request_info(connection: Connection) -> RequestInfo:
    """Return what the authentication middleware read of a request."""
    request_info = connection.scope["state"]["request_info"]
    if not isinstance(request_info, RequestInfo):
        raise TypeError("the request did not pass the authentication middleware")
    return request_info
