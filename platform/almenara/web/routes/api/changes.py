"""What changed between two moments, as JSON and as CSV."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Parameter

from almenara.errors import Unavailable
from almenara.history.filter import format_moment
from almenara.panels.changes import Difference, find_differences
from almenara.panels.formats import encode_query
from almenara.panels.slices import map_in_slices
from almenara.panels.time_window import TimeWindow, parse_period
from almenara.panels.view import View
from almenara.signals import now
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.routes.api.export import encode_csv_line, escape_formula
from almenara.web.routes.api.models import format_api_time
from almenara.web.routes.api.parameters import (
    QUERY_PROBLEMS,
    AtParameter,
    KindParameter,
    SinceParameter,
    UntilParameter,
    check_parameters,
    refuse_time,
)
from almenara.web.services import Services

TIMES: Final = ("since", "until", "range", "at")
DEFAULT_LIMIT: Final = 1_000
LARGEST_LIMIT: Final = 10_000
COLUMNS: Final = ("kind", "namespace", "name", "change", "before", "after", "severity")

RangeParameter = Annotated[str | None, Parameter(
    description="Length of time up to `until`, in place of `since`",
    examples=[Example(value="1h")])]  # fmt: skip
NamespaceParameter = Annotated[str | None, Parameter(
    description="Only resources of this namespace", examples=[Example(value="shop")])]  # fmt: skip
LimitParameter = Annotated[int, Parameter(
    ge=1, le=LARGEST_LIMIT, description="Maximum number of changes",
    examples=[Example(value=DEFAULT_LIMIT)])]  # fmt: skip


class ChangeItem(msgspec.Struct, kw_only=True):
    """How a resource differs between the two moments."""

    kind: str
    namespace: str
    name: str
    change: str
    """`created`, `deleted`, `status`, or the name of the field that changed."""
    before: Any
    after: Any
    severity: str
    """That of the resource at the later moment."""


class ChangeAnswer(msgspec.Struct, kw_only=True):
    """The differences between two moments, by kind, namespace and name."""

    since: str | None
    until: str | None
    changes: list[ChangeItem]
    more: int
    """Changes beyond the limit."""
    events: str
    """The address of the events in between."""


@get("/api/changes", opt=VIEWER, tags=["resources"], responses=QUERY_PROBLEMS)
async def changes(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    since: SinceParameter = None,
    until: UntilParameter = None,
    range: RangeParameter = None,  # noqa: A002
    at: AtParameter = None,
    kind: KindParameter = None,
    namespace: NamespaceParameter = None,
    limit: LimitParameter = DEFAULT_LIMIT,
) -> ChangeAnswer:
    """List the resources that were created, deleted or changed between two moments; by default in
    the last hour. `at` is the end of a period without `until`. `since` and `until` of the answer
    are the moments that were compared: a `range` is cut where the stored past starts."""
    check_parameters(request, {*TIMES, "kind", "namespace", "limit"})
    times, differences = await compare(request, services)
    return ChangeAnswer(
        since=format_api_time(times[0]),
        until=format_api_time(times[1]),
        changes=await map_in_slices(build_item, differences[:limit]),
        more=max(len(differences) - limit, 0),
        events="/api/events"
        + encode_query({"since": format_moment(times[0]), "until": format_moment(times[1])}),
    )


@get("/api/changes.csv", opt=VIEWER, tags=["resources"], responses=QUERY_PROBLEMS,
     media_type="text/csv")  # fmt: skip
async def changes_csv(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    since: SinceParameter = None,
    until: UntilParameter = None,
    range: RangeParameter = None,  # noqa: A002
    at: AtParameter = None,
    kind: KindParameter = None,
    namespace: NamespaceParameter = None,
) -> Response[str]:
    """Return all of the same as a table. A cell that could be a formula gets a leading `'`."""
    check_parameters(request, {*TIMES, "kind", "namespace"})
    _, differences = await compare(request, services)
    lines = [encode_csv_line(COLUMNS), *await map_in_slices(encode_line, differences)]
    return Response(
        b"".join(lines).decode(),
        # The framework adds the charset.
        media_type="text/csv",
        headers={"content-disposition": 'attachment; filename="changes.csv"'},
    )


async def compare(
    request: Request[Any, Any, Any], services: Services
) -> tuple[tuple[int, int], list[Difference]]:
    """Return the two moments of an address, and how the caller's resources differ between them.

    Raises `BadParameterError` and `Unavailable`.
    """
    view, query = scoped_view(services, request), request.query_params
    since, until = read_range(view, {name: query[name] for name in TIMES if query.get(name)})
    differences, gap = await find_differences(
        view, since, until, query.get("kind", ""), query.get("namespace", "")
    )
    if gap:
        raise Unavailable(gap)
    return (since, until), differences


def read_range(view: View, query: dict[str, str]) -> tuple[int, int]:
    """Return the start and end of the range in an address.

    Raises `BadParameterError`, with the nearest valid range, for one that is malformed, reversed,
    in the future or before the stored past.
    """
    recorder, moment = view.resources.recorder, now()
    earliest = None if recorder is None else recorder.earliest
    parsed = parse_period(query, now=moment, earliest=earliest)
    problem, window = parsed.problem, parsed.window
    since, until = window.bounds(moment)
    if earliest is not None and since < earliest:
        since = min(earliest, until - 1)
        if "since" in query:
            problem = problem or (
                f"{format_moment(window.since or 0)} is before the stored past, which starts at"
                f" {format_moment(earliest)}."
            )
            window = TimeWindow(mode="window", span=until - since, since=since, until=until)
    if problem:
        raise refuse_time(problem, window, TIMES)
    return since, until


def build_item(difference: Difference) -> ChangeItem:
    """Return a difference as the API shows it."""
    return ChangeItem(
        kind=difference.kind, namespace=difference.namespace, name=difference.name,
        change=difference.what, before=difference.before, after=difference.after,
        severity=difference.severity.name,
    )  # fmt: skip


def encode_line(difference: Difference) -> bytes:
    """Return a difference as a line of CSV; a value that is no plain one is JSON."""
    item = build_item(difference)
    values = [getattr(item, name) for name in COLUMNS]
    return encode_csv_line(
        [
            escape_formula(
                msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
            )
            for value in values
        ]
    )
