"""The cookies of sign-in: names and attributes."""

from typing import Final

from litestar.datastructures import Cookie

from almenara.security.request import RequestInfo
from almenara.security.secret_hash import digest
from almenara.security.sessions import PLAIN_COOKIE, SECURE_COOKIE

SESSION_COOKIES: Final = (SECURE_COOKIE, PLAIN_COOKIE)
FORM_COOKIES: Final = ("__Host-almenara-form", "almenara-form")
"""The cookie that binds a form to a browser without a session, over https and over http."""
LOGIN_KEY_LENGTH: Final = 12
LOGIN_COOKIES: Final = ("__Host-almenara-state", "almenara-state")
"""The prefix of the cookies that bind logins at a provider to one browser, likewise."""


def cookie_name(names: tuple[str, str], request_info: RequestInfo) -> str:
    """Return the name of a cookie for the address of a request.

    The `__Host-` name over https, since no other host can set it, else the plain one; with the
    port, since browsers share cookies among the ports of a host.
    """
    return f"{names[0 if request_info.is_secure else 1]}{request_info.cookie_suffix}"


def login_cookie_name(request_info: RequestInfo, state: str) -> str:
    """Return the name of the cookie of one login, so that logins in several tabs are independent.

    Over https only the `__Host-` cookie counts: with a cookie that another host planted, a user
    would be signed in as the attacker.
    """
    return f"{cookie_name(LOGIN_COOKIES, request_info)}-{digest(state)[:LOGIN_KEY_LENGTH]}"


def list_login_cookies(request_info: RequestInfo) -> list[str]:
    """Return the names of the login cookies that a request carries."""
    prefix = f"{cookie_name(LOGIN_COOKIES, request_info)}-"
    return [name for name in request_info.cookies() if name.startswith(prefix)]


def session_cookie(request_info: RequestInfo, secret: str) -> Cookie:
    """Return the cookie of a session; an empty secret deletes it."""
    return build_cookie(cookie_name(SESSION_COOKIES, request_info), secret, request_info)


def expired_session_cookies(request_info: RequestInfo) -> list[Cookie]:
    """Return the cookies that delete a session's, under every name that it may have."""
    names = {f"{name}{suffix}" for name in SESSION_COOKIES for suffix in
             ("", request_info.cookie_suffix)}  # fmt: skip
    return [
        build_cookie(name, "", request_info)
        for name in sorted(names)
        # Browsers refuse `__Host-` cookies over http.
        if request_info.is_secure or not name.startswith("__Host-")
    ]


def build_cookie(
    name: str, value: str, request_info: RequestInfo, max_age: int | None = None
) -> Cookie:
    """Return a cookie that scripts cannot read and other sites do not send; `max_age` in seconds.

    An empty value deletes the cookie.
    """
    return Cookie(
        key=name,
        value=value,
        path="/",
        httponly=True,
        secure=request_info.is_secure,
        samesite="lax",
        max_age=0 if not value else max_age,
    )
