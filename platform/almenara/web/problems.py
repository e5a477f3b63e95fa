"""Responses to errors: RFC 9457 problem details for programs, a page for people."""

import math
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.response import Redirect

from almenara.bus import BusClosedError
from almenara.errors import LimitExceeded, Unavailable
from almenara.intake.errors import IntakeBusyError, RefusedPushError
from almenara.panels.formats import encode_query
from almenara.promql.syntax import QueryError, QueryTooLargeError
from almenara.security.errors import AuthError, AuthUnavailable, Unauthenticated
from almenara.web.csrf import FormExpired, SessionEnded, csrf_token, set_form_cookie
from almenara.web.exports import TooManyExportsError
from almenara.web.layout import render_page, render_problem_page
from almenara.web.services import Services

log = structlog.get_logger(__name__)

SIGN_IN_PATH: Final = "/sign-in"
PROBLEM_TYPE: Final = "application/problem+json"
LONGEST_RETURN_ADDRESS: Final = 2_000
"""Characters of the address that a sign-in returns to; beyond, it returns to the overview."""
PROMETHEUS_PREFIX: Final = "/api/v1/"
PROMETHEUS_ERRORS: Final = {
    HTTPStatus.BAD_REQUEST: "bad_data",
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.TOO_MANY_REQUESTS: "too_many_requests",
    HTTPStatus.UNPROCESSABLE_ENTITY: "execution",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}
"""The types of errors of Prometheus' API, by status."""
DETAILS: Final = {
    HTTPStatus.NOT_FOUND: (
        "Nothing is at this address. Check its spelling; the pages of a plugin exist only while the"
        " plugin is loaded."
    ),
    HTTPStatus.METHOD_NOT_ALLOWED: (
        "This address does not allow the method; the Allow header lists those it does."
    ),
}
"""The text for statuses whose errors have no detail of their own."""


class Problem(msgspec.Struct, kw_only=True):
    """Problem details, https://www.rfc-editor.org/rfc/rfc9457."""

    title: str
    status: int
    detail: str
    instance: str = ""
    """The path of the request; empty where the request was refused before routing."""
    type: str = "about:blank"


class QueryProblem(msgspec.Struct, kw_only=True):
    """A failed query of Prometheus' API,
    https://prometheus.io/docs/prometheus/latest/querying/api/."""

    status: str = "error"
    errorType: str  # noqa: N815
    error: str


class BadParameterError(HTTPException):
    """A parameter is unknown or invalid; the detail names it and what is expected."""

    status_code = HTTPStatus.BAD_REQUEST


class NotFiringError(HTTPException):
    """An alert is to be acknowledged or assigned that does not fire."""

    status_code = HTTPStatus.CONFLICT


class NotInEffectError(HTTPException):
    """A command was stored, and its effect was not visible in time."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Return the response to any error."""
    status, detail = _classify(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
        error, (LimitExceeded, BusClosedError, TooManyExportsError, NotInEffectError, AuthError)
    ):
        log.error("a request failed", path=request.url.path, exc_info=error)
    title = HTTPStatus(status).phrase
    if detail == title:
        detail = DETAILS.get(HTTPStatus(status), detail)
    if isinstance(error, Unauthenticated):
        if not _is_for_programs(request.url.path) and request.method == "GET":
            return Redirect("/sign-in" + _return_address(request), status_code=303)
        headers = {"www-authenticate": "Bearer"}
    else:
        # Such as `Allow` with status 405.
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, AuthError | IntakeBusyError) and error.retry_after:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    if request.url.path.startswith(PROMETHEUS_PREFIX):
        kind = PROMETHEUS_ERRORS.get(HTTPStatus(status), "internal")
        query_problem = QueryProblem(errorType=kind, error=detail)
        return Response(
            query_problem, status_code=status, media_type=MediaType.JSON, headers=headers
        )
    if _is_for_programs(request.url.path):
        problem = Problem(title=title, status=status, detail=detail, instance=request.url.path)
        return Response(problem, status_code=status, media_type=PROBLEM_TYPE, headers=headers)
    services = request.app.state.services
    try:
        if isinstance(error, FormExpired | SessionEnded):
            page = _render_expired_form(services, request, error)
        else:
            # Without the identity, every other page would respond alike.
            retry = _address(request) if isinstance(error, AuthUnavailable) else ""
            page = render_problem_page(services, request, status, title, detail, retry)
    except Exception:
        log.exception("the page of an error could not be rendered", path=request.url.path)
        page = Response(detail, status_code=status, media_type=MediaType.TEXT)
    page.headers.update(headers)
    return page


def _render_expired_form(
    services: Services, request: Request[Any, Any, Any], error: FormExpired | SessionEnded
) -> Response[str]:
    """Return a page that offers to submit the form again, with a new token and the same input."""
    path = request.url.path
    if path == SIGN_IN_PATH:
        # A typed token is not repeated; the path to continue with is.
        next_page = error.fields.get("next", "/")
        address = SIGN_IN_PATH + encode_query({"next": next_page})
        fields: list[tuple[str, str]] = []
    else:
        address, fields = path, list(error.fields.items())
    response = render_page(
        services,
        request,
        "form_expired_page.html",
        {
            "detail": error.detail,
            "address": address,
            "is_sign_in": path == SIGN_IN_PATH,
            "is_signed_out": isinstance(error, SessionEnded),
            "fields": fields,
            "csrf": csrf_token(request),
        },
        name="problem",
        title="Form expired" if isinstance(error, FormExpired) else "Session ended",
        status_code=error.status,
    )
    response.headers["cache-control"] = "no-store"
    set_form_cookie(request, response)
    return response


def _address(request: Request[Any, Any, Any]) -> str:
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _return_address(request: Request[Any, Any, Any]) -> str:
    address = _address(request)
    return (
        ""
        if address == "/" or len(address) > LONGEST_RETURN_ADDRESS
        else encode_query({"next": address})
    )


def _is_for_programs(path: str) -> bool:
    return path.startswith(("/api/", "/intake/")) or path in ("/healthz", "/readyz", "/metrics")


def _format_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _classify(error: Exception) -> tuple[int, str]:
    if isinstance(error, AuthError | RefusedPushError):
        return error.status, error.detail
    if isinstance(error, QueryTooLargeError):
        return HTTPStatus.UNPROCESSABLE_ENTITY, str(error)
    if isinstance(error, QueryError):
        return HTTPStatus.BAD_REQUEST, str(error)
    if isinstance(error, (LimitExceeded, Unavailable)):
        return HTTPStatus.SERVICE_UNAVAILABLE, _format_sentence(str(error))
    if isinstance(error, HTTPException):
        detail = error.detail
        if isinstance(error.extra, list):
            messages = [
                f"{entry.get('key', '')}: {entry.get('message', '')}".strip(": ")
                for entry in error.extra
                if isinstance(entry, dict)
            ]
            detail = "; ".join(messages) or detail
        return error.status_code, detail
    # The text of an unexpected error may contain secrets; it is only logged.
    return (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Almenara could not handle the request. The server log has the error.",
    )
