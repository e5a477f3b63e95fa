"""The OpenID Connect endpoints: start, callback and back-channel logout."""

from typing import Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from almenara.security.auth_context import IdentityProvider
from almenara.security.errors import AuthError
from almenara.urls import local_path
from almenara.web.authorization import PUBLIC, SERVER_TO_SERVER
from almenara.web.cookies import (
    build_cookie,
    list_login_cookies,
    login_cookie_name,
    session_cookie,
)
from almenara.web.layout import PageRequest
from almenara.web.routes.sign_in import sign_in_response
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

CALLBACK: Final = "/sign-in/callback"
LOGIN_COOKIE_AGE: Final = 600
"""Seconds."""
MAX_LOGIN_COOKIES: Final = 10
"""Logins of one browser that may be pending; further ones replace others."""


def _get_provider(services: Services) -> IdentityProvider:
    provider = services.access.provider
    if provider is None:
        raise NotFoundException("No identity provider is configured (auth.mode is not oidc).")
    return provider


@get("/sign-in/start", name="start", opt=PUBLIC, include_in_schema=False)
async def start(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Redirect the browser to the provider; whoever is signed in continues with the page."""
    request_info, provider = get_request_info(request), _get_provider(services)
    next_page = local_path(request.query_params.get("next", "/"))
    if get_auth_context(request) is not None:
        return Redirect(next_page, status_code=303)
    try:
        services.access.sign_in.check_encrypted(request_info)
        login = await provider.start_login(f"{request_info.origin}{CALLBACK}", next_page)
    except AuthError as error:
        return sign_in_response(request, services, next_page=next_page, error=error)
    response = Redirect(login.url, status_code=303)
    name = login_cookie_name(request_info, login.state)
    response.cookies.append(
        build_cookie(name, login.cookie, request_info, max_age=LOGIN_COOKIE_AGE)
    )
    for abandoned in list_login_cookies(request_info)[MAX_LOGIN_COOKIES - 1 :]:
        response.cookies.append(build_cookie(abandoned, "", request_info))
    return response


@get(CALLBACK, name="callback", opt=PUBLIC, include_in_schema=False)
async def callback(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Complete the login with the code that the provider sent along.

    A browser that is signed in by now, in another tab or by the same link before, just continues.
    """
    request_info, provider = get_request_info(request), _get_provider(services)
    state = request.query_params.get("state", "")
    cookie_name = login_cookie_name(request_info, state)
    cookie = request_info.cookie(cookie_name)
    # `local_path` checked the page when the login started, and the cookie is signed.
    next_page = await provider.next_page(state, cookie)
    session_cookie_value = None
    if get_auth_context(request) is None:
        try:
            session_cookie_value, next_page = await provider.finish_login(
                request_info, dict(request.query_params), cookie
            )
        except AuthError as error:
            return sign_in_response(request, services, next_page=next_page, error=error)
    response = Redirect(next_page, status_code=303)  # nosemgrep: address-from-a-request-is-followed
    if session_cookie_value:
        response.cookies.append(session_cookie(request_info, session_cookie_value))
    response.cookies.append(build_cookie(cookie_name, "", request_info))
    return response


@post("/sign-in/back-channel-logout", name="back-channel logout", opt=SERVER_TO_SERVER,
      include_in_schema=False, status_code=200)  # fmt: skip
async def back_channel_logout(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[None]:
    """End the sessions that the provider's logout token names."""
    provider = _get_provider(services)
    form = await request.form()
    is_valid = await provider.handle_logout_token(str(form.get("logout_token", "")))
    status_code = 200 if is_valid else 400
    return Response(None, status_code=status_code, headers={"cache-control": "no-store"})


OIDC: Final = [start, callback, back_channel_logout]
