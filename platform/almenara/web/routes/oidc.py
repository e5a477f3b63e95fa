"""The OpenID Connect endpoints: start, callback and back-channel logout."""

from typing import Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from almenara.security.auth_context import IdentityProvider
from almenara.security.errors import AuthError
from almenara.web.authorization import PUBLIC, SERVER_TO_SERVER, get_request_info
from almenara.web.cookies import LOGIN_COOKIES, build_cookie, select_name, session_cookie
from almenara.web.layout import PageRequest
from almenara.web.routes.sign_in import local_path, sign_in_response
from almenara.web.services import Services

LOGIN_COOKIE_AGE: Final = 600
"""Seconds."""


def _get_provider(services: Services) -> IdentityProvider:
    provider = services.access.provider
    if provider is None:
        raise NotFoundException("No identity provider is configured (auth.mode is not oidc).")
    return provider


def _redirect_uri(request: PageRequest) -> str:
    scheme = "https" if get_request_info(request).is_secure else "http"
    return f"{scheme}://{request.headers['host']}/sign-in/callback"


@get("/sign-in/start", name="start", opt=PUBLIC, include_in_schema=False)
async def start(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Redirect the browser to the provider."""
    request_info, provider = get_request_info(request), _get_provider(services)
    next_page = local_path(request.query_params.get("next", "/"))
    try:
        services.access.sign_in.check_encrypted(request_info)
        url, binding = await provider.start_login(
            request_info.address, _redirect_uri(request), next_page
        )
    except AuthError as error:
        return sign_in_response(request, services, next_page=next_page, error=error)
    response = Redirect(url, status_code=303)
    # Over https only the `__Host-` cookie counts: with a cookie that another host planted, a user
    # would be signed in as the attacker.
    name = select_name(LOGIN_COOKIES, request_info)
    response.cookies.append(build_cookie(name, binding, request_info, max_age=LOGIN_COOKIE_AGE))
    return response


@get("/sign-in/callback", name="callback", opt=PUBLIC, include_in_schema=False)
async def callback(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Complete the login with the code that the provider sent along."""
    request_info, provider = get_request_info(request), _get_provider(services)
    cookie_name = select_name(LOGIN_COOKIES, request_info)
    try:
        secret, next_page = await provider.finish_login(
            request_info, dict(request.query_params), request_info.cookie(cookie_name)
        )
    except AuthError as error:
        return sign_in_response(request, services, next_page="/", error=error)
    # `local_path` checked it when the login started; it is not from this request.
    response = Redirect(next_page, status_code=303)  # nosemgrep: address-from-a-request-is-followed
    response.cookies.append(session_cookie(request_info, secret))
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
