"""CSRF tokens: every form that changes something carries one, however its user signed in.

With a session the token belongs to the session. Without one (proxy mode, sign-in off, or before
signing in) it is derived from a cookie and the user, so that neither is enough alone: a cookie that
another host planted, or a token of another user.
"""

import hashlib
import hmac
import secrets
from typing import Any, Final

from litestar import Request, Response

from almenara.security.errors import AccessDenied, Unauthenticated
from almenara.web.cookies import FORM_COOKIES, build_cookie, cookie_name
from almenara.web.state import Connection, get_auth_context, get_request_info

CSRF_FIELD: Final = "csrf"
CSRF_HEADER: Final = "x-csrf-token"
SECRET_FIELDS: Final = frozenset((CSRF_FIELD, "token"))
"""Fields that are not shown again."""
KEY: Final = secrets.token_bytes(32)
"""Of this process; forms of the process before are expired."""
FORM_SECRET_BYTES: Final = 32
LONGEST_VALUE: Final = 100_000
MOST_FIELDS: Final = 20


class FormExpired(AccessDenied):
    """A form of our own page with the token of an earlier session or process."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(
            "The form expired: you signed in again, or Almenara restarted, after the page was"
            " loaded. Nothing was changed. Your input is kept."
        )
        self.fields = fields
        """What was typed, except secrets."""


class SessionEnded(Unauthenticated):
    """A form of our own page that was sent after the session had ended."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(
            "Your session ended. Nothing was changed. Your input is kept: sign in in another tab,"
            " then submit it again here."
        )
        self.fields = fields
        """What was typed, except secrets."""


def csrf_token(connection: Connection) -> str:
    """Return the token for the forms of a page; `set_form_cookie` must follow on its response."""
    context = get_auth_context(connection)
    if context is not None and context.session is not None:
        return context.session.csrf
    state = connection.scope["state"]
    secret = _form_secret(connection)
    if not secret:
        secret = state.setdefault("new_form_secret", secrets.token_urlsafe(FORM_SECRET_BYTES))
    return _derive(connection, secret)


def set_form_cookie(request: Request[Any, Any, Any], response: Response[Any]) -> None:
    """Set the cookie that the token of the page was derived from, if the browser has none."""
    if secret := request.scope["state"].get("new_form_secret"):
        request_info = get_request_info(request)
        name = cookie_name(FORM_COOKIES, request_info)
        response.cookies.append(build_cookie(name, secret, request_info))


async def check_csrf(request: Request[Any, Any, Any]) -> None:
    """Raise `AccessDenied` where a form was not sent by our own page, `FormExpired` where it was,
    with an old token."""
    context = get_auth_context(request)
    if context is not None and context.from_header:
        # Browsers never send that header on their own.
        return
    if not is_own_form(request):
        raise AccessDenied("The form was not sent by a page of this site. Nothing was changed.")
    expected = _expected_token(request)
    sent = request.headers.get(CSRF_HEADER)
    if sent is None:
        sent = str((await request.form()).get(CSRF_FIELD, ""))
    if not expected or not hmac.compare_digest(_encode(expected), _encode(sent)):
        raise FormExpired(await read_fields(request))


def is_own_form(request: Request[Any, Any, Any]) -> bool:
    """Return whether a form was sent by a page of this site, with or without a valid token.

    `OriginMiddleware` compared the origin with ours if there is one; here it is required.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    return site == "same-origin" and "origin" in request.headers


async def read_fields(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Return what was typed in a form, except secrets."""
    form = await request.form()
    return {
        name: str(value)[:LONGEST_VALUE]
        for name, value in list(form.items())[:MOST_FIELDS]
        if name not in SECRET_FIELDS
    }


def _expected_token(connection: Connection) -> str:
    context = get_auth_context(connection)
    if context is not None and context.session is not None:
        return context.session.csrf
    secret = _form_secret(connection)
    return _derive(connection, secret) if secret else ""


def _form_secret(connection: Connection) -> str:
    request_info = get_request_info(connection)
    return request_info.cookie(cookie_name(FORM_COOKIES, request_info))


def _derive(connection: Connection, secret: str) -> str:
    context = get_auth_context(connection)
    subject = context.identity.user.subject if context is not None else ""
    return hmac.new(KEY, _encode(f"{secret}\0{subject}"), hashlib.sha256).hexdigest()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")
