"""The account page: permissions, sessions and, for admins, API tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect

from almenara.panels.formats import format_remaining
from almenara.scope import Grant
from almenara.security.auth_context import AuthContext
from almenara.security.errors import Unauthenticated
from almenara.security.identity import USER_ROLES, Identity, Role
from almenara.security.sessions import Session
from almenara.security.store import ApiToken
from almenara.security.tokens import describe_role, identity_of
from almenara.signals import now
from almenara.units import SECOND
from almenara.web.authorization import VIEWER
from almenara.web.csrf import csrf_token, set_form_cookie
from almenara.web.layout import PageRequest, render_page
from almenara.web.routes.api.parameters import ACCESS_PROBLEMS
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

LIFETIMES: Final = ((1, "1 day"), (7, "7 days"), (30, "30 days"), (90, "90 days"))
"""The lifetimes that the form offers, in days."""
DAY_SECONDS: Final = 86_400
LISTED_SESSIONS: Final = 200
EMPTY_FORM: Final = {
    "name": "", "role": "viewer", "days": "7", "sources": "", "types": "", "namespaces": "",
}  # fmt: skip
"""The fields of the form that creates a token."""


class SessionInfo(msgspec.Struct, kw_only=True):
    """The identity of a request, and what it may see."""

    name: str
    role: str
    groups: list[str]
    scope: list[Grant]
    """Visible is what any of these grants permits."""
    namespaces: list[str] | None
    """The visible namespaces of the cluster; null where the cluster does not decide."""
    access_log: bool
    signed_in: str
    """The mode of signing in, `auth.mode`."""


def require_context(request: PageRequest) -> AuthContext:
    """Return the identity of a request. Raises `Unauthenticated`."""
    context = get_auth_context(request)
    if context is None:
        raise Unauthenticated("Sign in first.")
    return context


@get("/api/session", opt=VIEWER, tags=["access"], responses=ACCESS_PROBLEMS)
async def session_info(request: PageRequest, services: NamedDependency[Services]) -> SessionInfo:
    """The identity of the request, and what it may see."""
    identity = require_context(request).identity
    scope = identity.scope
    return SessionInfo(
        name=identity.name,
        role=identity.role.name.lower(),
        groups=list(identity.user.groups),
        scope=list(scope.grants),
        namespaces=list(scope.namespaces) if scope.guarded else None,
        access_log=scope.access_log,
        signed_in=services.access.mode,
    )


def describe_scope(identity: Identity) -> list[str]:
    """Return what an identity sees, a line for each grant."""
    scope = identity.scope
    if scope.sees_all_sources:
        lines = ["everything"]
    else:
        lines = [_describe_grant(grant) for grant in scope.grants]
    if scope.guarded:
        names = ", ".join(name or "(cluster resources)" for name in scope.namespaces) or "none"
        lines.append(f"in {', '.join(scope.guarded)}: namespaces {names}")
    return lines or ["nothing"]


def _describe_grant(grant: Grant) -> str:
    parts: list[tuple[str, Sequence[str]]] = [
        ("sources", grant.sources),
        ("event types", grant.types),
        ("namespaces", grant.namespaces),
        ("labels", [f"{name}={value}" for name, value in grant.labels]),
    ]
    described = [f"{label} {', '.join(values)}" for label, values in parts if values]
    return " \u00b7 ".join(described) or "everything"


def account_response(
    request: PageRequest,
    services: Services,
    *,
    created_token: str = "",
    problem: str = "",
    form: Mapping[str, str] = EMPTY_FORM,
) -> Response[str]:
    """Return the account page, with a token that was just created, or with the problem of a form
    and what was entered in it."""
    context, access = require_context(request), services.access
    is_admin = context.identity.role >= Role.ADMIN
    visible = [
        session
        for session in access.sessions
        if access.sessions.is_usable(session) and (is_admin or session is context.session)
    ]
    visible.sort(key=lambda session: -session.last_seen)
    longest = services.settings.auth.max_token_lifetime
    proxy = services.settings.auth.proxy
    sign_out_url = proxy.sign_out_url if access.mode == "proxy" and not context.session else ""
    response = render_page(
        services,
        request,
        "account_page.html",
        {
            "permissions": describe_scope(context.identity),
            "role": context.identity.role.name.lower(),
            "admin": is_admin,
            "sessions": [
                _session_row(session, context.session) for session in visible[:LISTED_SESSIONS]
            ],
            "tokens": [_token_row(token) for token in access.tokens] if is_admin else [],
            "roles": [role.name.lower() for role in USER_ROLES],
            "lifetimes": [entry for entry in LIFETIMES if entry[0] * DAY_SECONDS <= longest],
            "created_token": created_token,
            "problem": problem,
            "form": {**EMPTY_FORM, **form},
            "csrf": csrf_token(request),
            "can_sign_out": context.session is not None,
            "sign_out_url": sign_out_url,
        },
        name="account",
        title="Account",
        status_code=400 if problem else 200,
    )
    response.headers["cache-control"] = "no-store"
    set_form_cookie(request, response)
    return response


def _session_row(session: Session, own: Session | None) -> dict[str, Any]:
    identity = session.identity
    return {
        "id": session.id,
        "name": session.record.user.name,
        "role": identity.role.name.lower() if identity is not None else "",
        "address": session.record.address,
        "agent": session.record.agent,
        "created": session.record.created,
        "last_seen": session.last_seen,
        "own": session is own,
    }


def _token_row(token: ApiToken) -> dict[str, Any]:
    remaining = (token.expires - now()) / SECOND
    return {
        "id": token.id,
        "name": token.name,
        "role": describe_role(token),
        "permissions": "; ".join(describe_scope(identity_of(token))),
        "created_by": token.created_by,
        "expires": f"in {format_remaining(remaining)}" if remaining > 0 else "expired",
    }


@get("/account", name="account", opt=VIEWER, include_in_schema=False)
async def account(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """The caller's permissions and session; for admins, all sessions and API tokens."""
    return account_response(request, services)


@post("/account/sessions/{session_id:str}/end", name="end session", opt=VIEWER,
      include_in_schema=False, status_code=303)  # fmt: skip
async def end_session(
    request: PageRequest, services: NamedDependency[Services], session_id: FromPath[str]
) -> Redirect:
    """Revoke the caller's session; for admins, any session."""
    context, access = require_context(request), services.access
    session = access.sessions.get(session_id)
    is_own = session is not None and session is context.session
    if session is None or not (is_own or context.identity.role >= Role.ADMIN):
        raise NotFoundException("This session does not exist; it may have ended already.")
    owner = session.record.user.name
    await access.sign_in.end_session(session)
    access.audit.record(
        "session_ended",
        user=context.identity.name,
        address=get_request_info(request).address,
        of=owner,
    )
    return Redirect("/account", status_code=303)


ACCOUNT: Final = [session_info, account, end_session]
