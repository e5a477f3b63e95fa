"""Signing in and out, and what somebody has of sessions and API tokens."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect

from almenara.panels.formats import format_duration
from almenara.scope import Grant
from almenara.security import tokens as api_tokens
from almenara.security.auth_context import AuthContext
from almenara.security.identity import Identity, Role
from almenara.security.request import Refused, RequestInfo
from almenara.security.sessions import PLAIN_COOKIE, SECURE_COOKIE, Session
from almenara.signals import now
from almenara.web.authorization import (
    ADMIN,
    BY_OTHERS,
    FORM_COOKIES,
    PUBLIC,
    VIEWER,
    NotAllowedError,
    asking_of,
    csrf_of,
    ticket_of,
)
from almenara.web.layout import PageRequest, render_page
from almenara.web.middleware.authentication import cookie_of, session_cookie
from almenara.web.routes.api.parameters import ACCESS_PROBLEMS
from almenara.web.services import Services

DAY: Final = 86_400
SECOND: Final = 1_000_000
LIFETIMES: Final = ((1, "a day"), (7, "a week"), (30, "30 days"), (90, "90 days"))
LONGEST_NAME: Final = 60
BEYOND: Final = (
    "A token sees nothing that you do not see, nor what you see by your rights in a cluster. Name"
    " sources, types or namespaces as those of your role are named, or let who runs Almenara make"
    " it: almenara access create."
)
LISTED: Final = 200
STATE_COOKIES: Final = ("__Host-almenara-state", "almenara-state")
"""What ties the way to the provider and back to one browser."""
ASKED: Final = {
    "token": "Access token or API token",  # nosec B105 # a label
    "kubernetes": "Token of a ServiceAccount or a user",
    "oidc": "API token",
    "proxy": "API token",
}


class WhoAmI(msgspec.Struct, kw_only=True):
    """Who makes a request, and what they may."""

    name: str
    role: str
    groups: list[str]
    scope: list[Grant]
    """What they see: what any of these shows."""
    namespaces: list[str] | None
    """Of the cluster, only what is in these; null where the cluster was not asked."""
    access_log: bool
    signed_in: str
    """How people sign in here."""


def local_address(text: str) -> str:
    """A page of ours to go back to; the first one for anything else."""
    parts = urlsplit(text)
    ours = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.netloc
    return text if ours and text.isprintable() and "\\" not in text else "/"


async def _sign_in_page(
    request: PageRequest, services: Services, *, problem: str = "", status: int = 200, back: str
) -> Response[str]:
    asking, access = asking_of(request), services.authenticator
    csrf = csrf_of(request)
    fresh = "" if csrf else secrets.token_urlsafe(32)
    try:
        access.check_encrypted(asking)
        insecure = ""
    except Refused as refused:
        insecure = refused.detail
    response = render_page(
        services,
        request,
        "sign_in_page.html",
        {
            "problem": problem,
            "back": back,
            "mode": access.mode,
            "asked": ASKED.get(access.mode, ""),
            "provider": access.oidc.name if access.oidc is not None else "",
            "insecure": insecure,
            "nobody": access.mode == "token" and not access.has_access_token,
            "csrf": csrf or fresh,
        },
        name="sign in",
        title="Sign in",
        status_code=status,
    )
    response.headers["cache-control"] = "no-store"
    if fresh:
        name = FORM_COOKIES[0 if asking.secure else 1]
        response.cookies.append(cookie_of(name, fresh, asking))
    return response


@get("/sign-in", name="sign in", opt=PUBLIC, include_in_schema=False)
async def sign_in_page(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Where people sign in."""
    back = local_address(request.query_params.get("next", "/"))
    if ticket_of(request) is not None:
        return Redirect(back, status_code=303)
    return await _sign_in_page(request, services, back=back)


@post("/sign-in", name="sign in with a token", opt=PUBLIC, include_in_schema=False, status_code=303)
async def sign_in(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Exchange a token for a session."""
    form, asking = await request.form(), asking_of(request)
    back = local_address(str(form.get("next", "/")))
    try:
        secret = await services.authenticator.sign_in(asking, str(form.get("token", "")))
    except Refused as refused:
        return await _sign_in_page(
            request, services, problem=refused.detail, status=refused.status, back=back
        )
    response = Redirect(back, status_code=303)
    response.cookies.append(session_cookie(asking, secret))
    return response


@post("/sign-out", name="sign out", opt=VIEWER, include_in_schema=False, status_code=303)
async def sign_out(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """End the session of this browser, and that at the provider."""
    ticket, asking, provider = ticket_of(request), asking_of(request), services.authenticator.oidc
    away = ""
    if ticket is not None and ticket.session is not None:
        if provider is not None:
            away = provider.leaving(ticket.session)
        await services.authenticator.sign_out(ticket.session, asking.address)
    response: Response[str] | Redirect = Redirect("/sign-in", status_code=303)
    if away and provider is not None:
        request.scope["state"].pop("ticket")
        # What a form leads to may be of this origin alone (`form-action`), also by a redirect: a
        # page goes on from here.
        response = render_page(
            services, request, "sign_out_page.html", {"away": away, "provider": provider.name},
            name="sign out", title="Sign out",
        )  # fmt: skip
        response.headers["cache-control"] = "no-store"
    for name in (SECURE_COOKIE, PLAIN_COOKIE):
        if asking.secure or name == PLAIN_COOKIE:
            response.cookies.append(cookie_of(name, "", asking))
    return response


@get("/sign-in/start", name="start", opt=PUBLIC, include_in_schema=False)
async def start(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """The way to the provider."""
    asking, provider = asking_of(request), services.authenticator.oidc
    if provider is None:
        raise NotFoundException("There is no provider to sign in with here.")
    back = local_address(request.query_params.get("next", "/"))
    try:
        services.authenticator.check_encrypted(asking)
        address, tie = await provider.begin(asking.address, _callback(request), back)
    except Refused as refused:
        return await _sign_in_page(
            request, services, problem=refused.detail, status=refused.status, back=back
        )
    response = Redirect(address, status_code=303)
    response.cookies.append(cookie_of(_state_cookie(asking), tie, asking, max_age=600))
    return response


def _state_cookie(asking: RequestInfo) -> str:
    # Over https only the one that no other host can set: with a cookie of theirs somebody would be
    # signed in as them.
    return STATE_COOKIES[0 if asking.secure else 1]


def _callback(request: PageRequest) -> str:
    scheme = "https" if asking_of(request).secure else "http"
    return f"{scheme}://{request.headers['host']}/sign-in/callback"


@get("/sign-in/callback", name="callback", opt=PUBLIC, include_in_schema=False)
async def callback(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """The way back from the provider."""
    asking, provider = asking_of(request), services.authenticator.oidc
    if provider is None:
        raise NotFoundException("There is no provider to sign in with here.")
    try:
        secret, back = await provider.finish(
            asking, dict(request.query_params), asking.cookie(_state_cookie(asking))
        )
    except Refused as refused:
        return await _sign_in_page(
            request, services, problem=refused.detail, status=refused.status, back="/"
        )
    # It passed local_address when it was kept, and does not come from this request.
    response = Redirect(back, status_code=303)  # nosemgrep: address-from-a-request-is-followed
    response.cookies.append(session_cookie(asking, secret))
    response.cookies.append(cookie_of(_state_cookie(asking), "", asking))
    return response


@post("/sign-in/back-channel-logout", name="back-channel logout", opt=BY_OTHERS,
      include_in_schema=False, status_code=200)  # fmt: skip
async def back_channel_logout(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[None]:
    """The provider says that somebody signed out elsewhere."""
    provider = services.authenticator.oidc
    if provider is None:
        raise NotFoundException("There is no provider to sign in with here.")
    form = await request.form()
    done = await provider.signed_out_elsewhere(str(form.get("logout_token", "")))
    return Response(None, status_code=200 if done else 400, headers={"cache-control": "no-store"})


@get("/api/session", opt=VIEWER, tags=["access"], responses=ACCESS_PROBLEMS)
async def who_am_i(request: PageRequest, services: NamedDependency[Services]) -> WhoAmI:
    """Who makes the request, and what they may see."""
    identity = _ticket(request).identity
    scope = identity.scope
    return WhoAmI(
        name=identity.name,
        role=identity.role.name.lower(),
        groups=list(identity.person.groups),
        scope=list(scope.grants),
        namespaces=list(scope.namespaces) if scope.guarded else None,
        access_log=scope.access_log,
        signed_in=services.authenticator.mode,
    )


def _ticket(request: PageRequest) -> AuthContext:
    ticket = ticket_of(request)
    if ticket is None:
        raise NotAllowedError("Sign in first.")
    return ticket


def told(identity: Identity) -> list[str]:
    """What somebody sees, in words."""
    scope = identity.scope
    lines = ["everything"] if scope.sees_all_sources else [_told(it) for it in scope.grants]
    if scope.guarded:
        where = ", ".join(it or "the cluster itself" for it in scope.namespaces) or "none"
        lines.append(f"of {', '.join(scope.guarded)}: the namespaces {where}")
    return lines or ["nothing"]


def _told(grant: Grant) -> str:
    parts: list[tuple[str, Sequence[str]]] = [
        ("from", grant.sources),
        ("events of type", grant.types),
        ("in the namespaces", grant.namespaces),
        ("labelled", [f"{name}={value}" for name, value in grant.labels]),
    ]
    said = [f"{words} {', '.join(them)}" for words, them in parts if them]
    return " \u00b7 ".join(said) or "everything"


async def _account(
    request: PageRequest, services: Services, *, made: str = "", problem: str = ""
) -> Response[str]:
    ticket, access = _ticket(request), services.authenticator
    admin = ticket.identity.role >= Role.ADMIN
    own = ticket.session
    theirs = [it for it in access.sessions if it.identity is not None and (admin or it is own)]
    theirs.sort(key=lambda it: -it.seen)
    response = render_page(
        services,
        request,
        "account_page.html",
        {
            "told": told(ticket.identity),
            "role": ticket.identity.role.name.lower(),
            "admin": admin,
            "sessions": [_session(it, own) for it in theirs[:LISTED]],
            "tokens": [
                {
                    "token": it,
                    "role": Role(it.role).name.lower(),
                    "told": "; ".join(told(api_tokens.identity_of(it))),
                    "left": format_duration((it.expires - now()) / SECOND)
                    if it.expires > now()
                    else "",
                }
                for it in access.tokens
            ]
            if admin
            else [],
            "roles": [it.name.lower() for it in Role],
            "lifetimes": [
                it for it in LIFETIMES if it[0] * DAY <= services.settings.auth.max_token_lifetime
            ],
            "made": made,
            "problem": problem,
        },
        name="account",
        title="Account",
        status_code=400 if problem else 200,
    )
    response.headers["cache-control"] = "no-store"
    return response


def _session(session: Session, own: Session | None) -> dict[str, Any]:
    identity = session.identity
    return {
        "id": session.id,
        "name": session.kept.person.name,
        "role": identity.role.name.lower() if identity is not None else "",
        "address": session.kept.address,
        "agent": session.kept.agent,
        "created": session.kept.created,
        "seen": session.seen,
        "own": session is own,
    }


@get("/account", name="account", opt=VIEWER, include_in_schema=False)
async def account(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Who I am here, my sessions and, for admins, everybody's and the API tokens."""
    return await _account(request, services)


@post("/account/sessions/{session_id:str}/end", name="end session", opt=VIEWER,
      include_in_schema=False, status_code=303)  # fmt: skip
async def end_session(
    request: PageRequest, services: NamedDependency[Services], session_id: FromPath[str]
) -> Redirect:
    """End a session: one's own or, for admins, anybody's."""
    ticket, access = _ticket(request), services.authenticator
    session = access.sessions.get(session_id)
    own = session is not None and session is ticket.session
    if session is None or not (own or ticket.identity.role >= Role.ADMIN):
        raise NotFoundException("There is no such session; it may have ended already.")
    who = session.kept.person.name
    await access.end(session)
    access.audit.note(
        "session_ended", who=ticket.identity.name, address=asking_of(request).address, of=who
    )
    return Redirect("/account", status_code=303)


@post("/account/tokens", name="make token", opt=ADMIN, include_in_schema=False, status_code=200)
async def make_token(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Make an API token; it is shown once."""
    ticket, access, form = _ticket(request), services.authenticator, await request.form()
    name = str(form.get("name", "")).strip()
    role = str(form.get("role", "viewer")).upper()
    days = str(form.get("days", "7"))
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        return await _account(
            request, services, problem=f"Give it a name of at most {LONGEST_NAME} characters."
        )
    if role not in Role.__members__ or days not in {str(it) for it, _ in LIFETIMES}:
        return await _account(request, services, problem="Choose a role and a lifetime.")
    grant = Grant(
        sources=_words(form.get("sources")),
        types=_words(form.get("types")),
        namespaces=_words(form.get("namespaces")),
    )
    grants = ticket.identity.scope.delegate(grant)
    if not grants:
        # An admin of a part would otherwise see the rest with a token of their own making.
        return await _account(request, services, problem=BEYOND)
    lifetime = min(int(days) * DAY, services.settings.auth.max_token_lifetime)
    token, sent = await asyncio.to_thread(
        api_tokens.made, name, Role[role], grants, lifetime, by=ticket.identity.name
    )
    await access.add_token(token)
    access.audit.note(
        "token_created", who=ticket.identity.name, address=asking_of(request).address,
        token=token.id, name=name, role=role.lower(),
    )  # fmt: skip
    return await _account(request, services, made=sent)


def _words(text: Any) -> tuple[str, ...]:
    return tuple(sorted(set(str(text or "").replace(",", " ").split()[:50])))


@post("/account/tokens/{token_id:str}/revoke", name="revoke token", opt=ADMIN,
      include_in_schema=False, status_code=303)  # fmt: skip
async def revoke_token(
    request: PageRequest, services: NamedDependency[Services], token_id: FromPath[str]
) -> Redirect:
    """Revoke an API token, with the sessions that came of it."""
    ticket, access = _ticket(request), services.authenticator
    if not await access.remove_token(token_id):
        raise NotFoundException("There is no such token; it may have been revoked already.")
    access.audit.note(
        "token_revoked", who=ticket.identity.name, address=asking_of(request).address,
        token=token_id,
    )  # fmt: skip
    return Redirect("/account", status_code=303)


SIGNING: Final = [
    sign_in_page, sign_in, sign_out, start, callback, back_channel_logout, who_am_i, account,
    end_session, make_token, revoke_token,
]  # fmt: skip
