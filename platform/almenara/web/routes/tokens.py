"""Creating and revoking API tokens, on the account page."""

import asyncio
from typing import Final

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect

from almenara.scope import Grant
from almenara.security.identity import USER_ROLES, Role
from almenara.security.tokens import create_token
from almenara.web.authorization import ADMIN
from almenara.web.layout import PageRequest
from almenara.web.routes.account import (
    DAY_SECONDS,
    LIFETIMES,
    account_response,
    require_context,
)
from almenara.web.services import Services
from almenara.web.state import get_request_info

LONGEST_NAME: Final = 60
LARGEST_LIST: Final = 50
BEYOND_SCOPE: Final = (
    "A token cannot see more than you do, and nothing that you see through your rights in a"
    " cluster. Enter sources, types or namespaces exactly as your role has them, or create the"
    " token on the server: almenara access create."
)


@post("/account/tokens", name="make token", opt=ADMIN, include_in_schema=False, status_code=200)
async def create_api_token(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str]:
    """Create an API token; the response shows it once."""
    context, access = require_context(request), services.access
    form = {name: str(value) for name, value in (await request.form()).items()}
    name = form.get("name", "").strip()
    role = form.get("role", "viewer").upper()
    days = form.get("days", "7")
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        problem = f"Enter a name of at most {LONGEST_NAME} characters."
        return account_response(request, services, problem=problem, form=form)
    if role not in {known.name for known in USER_ROLES} or days not in {
        str(count) for count, _ in LIFETIMES
    }:
        return account_response(
            request, services, problem="Choose a role and an expiry.", form=form
        )
    requested = Grant(
        sources=_split_names(form.get("sources")),
        types=_split_names(form.get("types")),
        namespaces=_split_names(form.get("namespaces")),
    )
    grants = context.identity.scope.delegate(requested)
    if not grants:
        # Otherwise an admin of a part could see the rest with a token.
        return account_response(request, services, problem=BEYOND_SCOPE, form=form)
    lifetime = min(int(days) * DAY_SECONDS, services.settings.auth.max_token_lifetime)
    token, secret = await asyncio.to_thread(
        create_token, name, Role[role], grants, lifetime, created_by=context.identity.name
    )
    await access.credentials.add_token(token)
    access.audit.record(
        "token_created",
        user=context.identity.name,
        address=get_request_info(request).address,
        token=token.id,
        name=name,
        role=role.lower(),
    )
    return account_response(request, services, created_token=secret)


def _split_names(text: str | None) -> tuple[str, ...]:
    return tuple(sorted(set((text or "").replace(",", " ").split()[:LARGEST_LIST])))


@post("/account/tokens/{token_id:str}/revoke", name="revoke token", opt=ADMIN,
      include_in_schema=False, status_code=303)  # fmt: skip
async def revoke_api_token(
    request: PageRequest, services: NamedDependency[Services], token_id: FromPath[str]
) -> Redirect:
    """Revoke an API token, with the sessions that it started."""
    context, access = require_context(request), services.access
    if not await access.sign_in.revoke_token(token_id):
        raise NotFoundException("This token does not exist; it may have been revoked already.")
    access.audit.record(
        "token_revoked",
        user=context.identity.name,
        address=get_request_info(request).address,
        token=token_id,
    )
    return Redirect("/account", status_code=303)


TOKENS: Final = [create_api_token, revoke_api_token]
