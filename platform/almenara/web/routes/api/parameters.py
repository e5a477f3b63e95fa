"""The parameters and responses that addresses of the JSON API share, as OpenAPI describes them."""

from collections import Counter
from collections.abc import Sequence, Set
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter

from almenara.config.suggestions import suggest
from almenara.history import Filter
from almenara.panels.filters import EVENT_FILTERS
from almenara.panels.time_window import TimeWindow, parse_time_window
from almenara.panels.view import View
from almenara.signals import Severity, now
from almenara.web.problems import PROBLEM_TYPE, BadParameterError, Problem
from almenara.web.services import Services
from almenara.web.timed_view import read_time

LARGEST_LIMIT: Final = 1_000
LARGEST_SEQUENCE: Final = 2**63 - 1
PAGING: Final = frozenset(("after", "before", "limit", "at"))
MOMENT: Final = ("at",)
"""The parameter that makes an address one of the past."""
TIMES: Final = ("since", "until")
"""The parameters that bound events and samples by time."""
LONGEST_NAME: Final = 60
"""Characters of an unknown parameter that its error repeats."""


def describe_problem(description: str) -> ResponseSpec:
    """Return the OpenAPI response of a problem."""
    return ResponseSpec(
        Problem, description=description, generate_examples=False, media_type=PROBLEM_TYPE
    )


ACCESS_PROBLEMS: Final = {
    401: describe_problem("No one is signed in, or the token is invalid"),
    403: describe_problem("Another role, or a scope without limits, is required"),
    405: describe_problem("The address does not allow this method"),
    429: describe_problem("Too many requests, or too many invalid tokens"),
}
"""The problems that any address of the API can respond with."""
PARAMETER_PROBLEMS: Final = {
    **ACCESS_PROBLEMS,
    400: describe_problem("A parameter is unknown or invalid"),
}
QUERY_PROBLEMS: Final = {**PARAMETER_PROBLEMS, 503: describe_problem("The query took too long")}
EXPORT_PROBLEMS: Final = {
    **PARAMETER_PROBLEMS,
    503: describe_problem("The query took too long, or too many exports are running"),
}
EVENT_PROBLEMS: Final = {**PARAMETER_PROBLEMS, 404: describe_problem("There is no such event")}
COMMAND_PROBLEMS: Final = {
    **PARAMETER_PROBLEMS,
    503: describe_problem("It is not in effect yet: alert rules are not evaluated at the moment"),
}
ALERT_PROBLEMS: Final = {
    **COMMAND_PROBLEMS,
    404: describe_problem("There is no such alert or silence"),
    409: describe_problem("The alert does not fire"),
}


def _text(description: str, example: str) -> Any:
    return Parameter(description=description, examples=[Example(value=example)])


SourceParameter = Annotated[str | None, _text(
    "The CloudEvents source; `*` matches one part, a last `>` all the rest",
    "nats/PLANNING_EVENTS")]  # fmt: skip
OriginParameter = Annotated[str | None, _text("Where it was read, as a pattern", "nats/**")]
TypeParameter = Annotated[str | None, _text("Type, as a pattern", "planning.story.*")]
SubjectParameter = Annotated[str | None, _text("Subject, as a pattern", "planning.>")]
SeverityParameter = Annotated[str | None, Parameter(
    description="This severity and above; empty for all", examples=[Example(value="ERROR")],
    schema_extra={"enum": ["", *(severity.name for severity in Severity)]})]  # fmt: skip
TextParameter = Annotated[str | None, _text(
    "Words in subject or payload; quotes for a phrase, a last `*` for a prefix",
    "login butt*")]  # fmt: skip
CorrelationParameter = Annotated[str | None, _text("Correlation ID", "US-101")]
SinceParameter = Annotated[str | None, _text("From this time on: RFC 3339, or `15m` ago", "15m")]
UntilParameter = Annotated[str | None, _text("Before this time", "2026-01-31T12:00:00Z")]
AtParameter = Annotated[str | None, _text(
    "As of this moment of the past: RFC 3339, or `15m` ago", "2026-01-31T12:00:00Z")]  # fmt: skip
AfterParameter = Annotated[int | None, Parameter(
    ge=0, le=LARGEST_SEQUENCE, description="Only after this sequence",
    examples=[Example(value=1200)])]  # fmt: skip
BeforeParameter = Annotated[int | None, Parameter(
    ge=0, le=LARGEST_SEQUENCE, description="Only before this sequence",
    examples=[Example(value=1300)])]  # fmt: skip
LimitParameter = Annotated[int, Parameter(
    ge=1, le=LARGEST_LIMIT, description="Maximum number of events",
    examples=[Example(value=100)])]  # fmt: skip
KindParameter = Annotated[str | None, _text("Only resources of this kind", "nats.stream")]


def check_parameters(request: Request[Any, Any, Any], known: Set[str]) -> None:
    """Raise `BadParameterError` for a parameter that is unknown or present twice."""
    names = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in names.items():
        if name not in known:
            hint = suggest(name, sorted(known))
            raise BadParameterError(detail=f"{name[:LONGEST_NAME]!r} is not a parameter; {hint}")
        if count > 1:
            raise BadParameterError(detail=f"{name} is present {count} times; send it once")


async def view_of(request: Request[Any, Any, Any], services: Services) -> View:
    """Return the caller's view, as of the moment of the address where it names one.

    Raises `BadParameterError`, with the nearest valid moment.
    """
    timed = await read_time(services, request, MOMENT)
    if timed.problem:
        raise refuse_time(timed.reason, timed.window, MOMENT)
    return timed.view


def refuse_time(reason: str, nearest: TimeWindow, names: Sequence[str]) -> BadParameterError:
    """Return the error of an address whose time is not possible, with the nearest that is.

    Pages display the nearest valid time; a program has to request it. `names` are the parameters
    of the address that choose the time.
    """
    query = {name: text for name, text in nearest.to_query().items() if name in names}
    hint = (
        f"use {urlencode(query, safe=':')}"
        if query
        else f"leave out {', '.join(names)} for the present"
    )
    return BadParameterError(detail=f"{reason} The nearest valid request: {hint}.")


def parse_filter(request: Request[Any, Any, Any]) -> Filter:
    """Return the filter in an address. Raises `BadParameterError`, for unknown parameters too."""
    check_parameters(request, EVENT_FILTERS | PAGING)
    query = request.query_params
    times = {name: query[name] for name in TIMES if query.get(name)}
    try:
        Filter.from_query(times)
    except ValueError as error:
        parsed = parse_time_window(times, now=now())
        reason = f"{error}." if parsed.window.is_live else parsed.problem
        raise refuse_time(reason, parsed.window, TIMES) from None
    try:
        return Filter.from_query(query)
    except ValueError as error:
        raise BadParameterError(detail=str(error)) from None
