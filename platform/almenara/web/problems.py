"""Errors as people and programs read them: RFC 9457 problem details for the API, a page else."""

from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.response import Redirect

from almenara.bus.readers import QueryTooSlowError
from almenara.panels.renderer import query
from almenara.web.authorization import NotSignedInError
from almenara.web.routes.pages import problem_page

log = structlog.get_logger(__name__)

PROBLEM_TYPE: Final = "application/problem+json"
LONGEST_WAY_BACK: Final = 2_000
WORDED: Final = {
    HTTPStatus.NOT_FOUND: (
        "Nothing is at this address. Check how it is written; the pages of a plugin are there only"
        " where it is loaded."
    ),
    HTTPStatus.METHOD_NOT_ALLOWED: (
        "This address takes other methods; the header Allow says which."
    ),
}
"""What is said where the framework says no more than the status."""


class Problem(msgspec.Struct, kw_only=True):
    """Problem details, https://www.rfc-editor.org/rfc/rfc9457."""

    title: str
    status: int
    detail: str
    instance: str = ""
    """The path that was asked for; left out where the request went no further than the edge."""
    type: str = "about:blank"


class BadParameterError(HTTPException):
    """A parameter of the address cannot be read; the detail says which and what would be right."""

    status_code = HTTPStatus.BAD_REQUEST


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """The response to an error, whatever it is."""
    status, detail = _meaning(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, QueryTooSlowError):
        log.error("a request failed", path=request.url.path, exc_info=error)
    title = HTTPStatus(status).phrase
    if detail == title:
        detail = WORDED.get(HTTPStatus(status), detail)
    if isinstance(error, NotSignedInError):
        if not _for_program(request.url.path) and request.method == "GET":
            return Redirect("/sign-in" + _back_to(request), status_code=303)
        headers = {"www-authenticate": "Bearer"}
    else:
        # Such as `Allow`, where an address takes another method.
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if _for_program(request.url.path):
        problem = Problem(title=title, status=status, detail=detail, instance=request.url.path)
        return Response(problem, status_code=status, media_type=PROBLEM_TYPE, headers=headers)
    services = request.app.state.services
    try:
        page = problem_page(services, request, status, title, detail)
    except Exception:
        log.exception("the page for an error could not be drawn", path=request.url.path)
        page = Response(detail, status_code=status, media_type=MediaType.TEXT)
    page.headers.update(headers)
    return page


def _back_to(request: Request[Any, Any, Any]) -> str:
    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "" if address == "/" or len(address) > LONGEST_WAY_BACK else query({"next": address})


def _for_program(path: str) -> bool:
    return path.startswith("/api/") or path in ("/healthz", "/readyz", "/metrics")


def _meaning(error: Exception) -> tuple[int, str]:
    if isinstance(error, QueryTooSlowError):
        return HTTPStatus.SERVICE_UNAVAILABLE, f"{str(error)[:1].upper()}{str(error)[1:]}."
    if isinstance(error, HTTPException):
        detail = error.detail
        if isinstance(error.extra, list):
            named = [
                f"{it.get('key', '')}: {it.get('message', '')}".strip(": ")
                for it in error.extra
                if isinstance(it, dict)
            ]
            detail = "; ".join(named) or detail
        return error.status_code, detail
    # The text of an unforeseen error may hold what nobody should read; it is in the log.
    return HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; the log says what."
