"""The cookies of sign-in: names and attributes."""

from typing import Final

from litestar.datastructures import Cookie

from almenara.security.request import RequestInfo
from almenara.security.sessions import PLAIN_COOKIE, SECURE_COOKIE

FORM_COOKIES: Final = ("__Host-almenara-form", "almenara-form")
"""The cookie that binds a form to a browser without a session, over https and over http."""
LOGIN_COOKIES: Final = ("__Host-almenara-state", "almenara-state")
"""The cookie that binds a login at a provider to one browser, over https and over http."""


def session_cookie(request_info: RequestInfo, secret: str) -> Cookie:
    """Return the cookie of a session; an empty secret deletes it."""
    name = SECURE_COOKIE if request_info.is_secure else PLAIN_COOKIE
    return build_cookie(name, secret, request_info)


def select_name(names: tuple[str, str], request_info: RequestInfo) -> str:
    """Return the `__Host-` name over https, since no other host can set it, else the plain one."""
    return names[0 if request_info.is_secure else 1]


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
