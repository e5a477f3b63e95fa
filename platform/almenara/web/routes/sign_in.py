"""The sign-in page, and signing in and out with it."""

from typing import Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.response import Redirect

from almenara.security.errors import AuthError
from almenara.urls import local_path
from almenara.web.authorization import PUBLIC, VIEWER
from almenara.web.cookies import expired_session_cookies, session_cookie
from almenara.web.csrf import csrf_token, set_form_cookie
from almenara.web.layout import PageRequest, render_page
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

TOKEN_LABELS: Final = {
    "token": "Access token or API token",  # nosec B105 # a label
    "kubernetes": "Token of a ServiceAccount or user",
}
"""The label of the token field, by mode. Other modes sign in without a typed token."""


def sign_in_response(
    request: PageRequest,
    services: Services,
    *,
    next_page: str,
    error: AuthError | None = None,
) -> Response[str]:
    """Return the sign-in page, with the error of a failed attempt."""
    request_info, access = get_request_info(request), services.access
    try:
        access.sign_in.check_encrypted(request_info)
        warning = ""
    except AuthError as refused:
        warning = refused.detail
    response = render_page(
        services,
        request,
        "sign_in_page.html",
        {
            "problem": error.detail if error is not None else "",
            "next_page": next_page,
            "mode": access.mode,
            "token_label": TOKEN_LABELS.get(access.mode, ""),
            "provider": access.provider.name if access.provider is not None else "",
            "warning": warning,
            "needs_access_token": access.mode == "token" and not access.has_access_token,
            "csrf": csrf_token(request),
        },
        name="sign in",
        title="Sign in",
        status_code=error.status if error is not None else 200,
    )
    response.headers["cache-control"] = "no-store"
    set_form_cookie(request, response)
    return response


@get("/sign-in", name="sign in", opt=PUBLIC, include_in_schema=False)
async def sign_in_page(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """The sign-in page; whoever is signed in already continues with the page `next`."""
    next_page = local_path(request.query_params.get("next", "/"))
    if get_auth_context(request) is not None:
        return Redirect(next_page, status_code=303)
    return sign_in_response(request, services, next_page=next_page)


@post("/sign-in", name="sign in with a token", opt=PUBLIC, include_in_schema=False, status_code=303)
async def sign_in(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Exchange a token for a session."""
    form, request_info = await request.form(), get_request_info(request)
    next_page = local_path(str(form.get("next", "/")))
    try:
        secret = await services.access.sign_in.exchange_token(
            request_info, str(form.get("token", ""))
        )
    except AuthError as error:
        return sign_in_response(request, services, next_page=next_page, error=error)
    response = Redirect(next_page, status_code=303)
    response.cookies.append(session_cookie(request_info, secret))
    return response


@post("/sign-out", name="sign out", opt=VIEWER, include_in_schema=False, status_code=303)
async def sign_out(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """End the session of this browser, and continue with the provider's logout page."""
    context, request_info = get_auth_context(request), get_request_info(request)
    provider = services.access.provider
    logout_url = ""
    if context is not None and context.session is not None:
        if provider is not None:
            logout_url = await provider.logout_url(context.session)
        await services.access.sign_in.sign_out(context.session, request_info.address)
    response: Response[str] | Redirect = Redirect("/sign-in", status_code=303)
    if logout_url and provider is not None:
        request.scope["state"].pop("auth_context")
        # The policy limits forms to this origin (`form-action`), redirects included, so a page
        # leads on to the provider.
        response = render_page(
            services,
            request,
            "sign_out_page.html",
            {"logout_url": logout_url, "provider": provider.name},
            name="sign out",
            title="Sign out",
        )
        response.headers["cache-control"] = "no-store"
    response.cookies += expired_session_cookies(request_info)
    return response


SIGN_IN: Final = [sign_in_page, sign_in, sign_out]
