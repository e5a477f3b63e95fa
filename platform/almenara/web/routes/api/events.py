"""Events as JSON: a page of those that match a filter, and one by its sequence."""

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from almenara.clock import clock_at
from almenara.panels.formats import encode_query
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.routes.api.models import EventItem, EventPage, build_event_item
from almenara.web.routes.api.parameters import (
    EVENT_PROBLEMS,
    QUERY_PROBLEMS,
    AfterParameter,
    AtParameter,
    BeforeParameter,
    CorrelationParameter,
    LimitParameter,
    OriginParameter,
    SeverityParameter,
    SinceParameter,
    SourceParameter,
    SubjectParameter,
    TextParameter,
    TypeParameter,
    UntilParameter,
    parse_filter,
    view_of,
)
from almenara.web.services import Services


def build_page_address(request: Request[Any, Any, Any], **cursor: int) -> str:
    """Return the address of the request with another cursor."""
    parameters = {
        name: text for name, text in request.query_params.items() if name not in ("after", "before")
    }
    cursors = {name: str(sequence) for name, sequence in cursor.items()}
    return request.url.path + encode_query({**parameters, **cursors})


@get("/api/events", opt=VIEWER, tags=["events"], responses=QUERY_PROBLEMS)
async def events(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    source: SourceParameter = None,
    origin: OriginParameter = None,
    type: TypeParameter = None,  # noqa: A002
    subject: SubjectParameter = None,
    severity: SeverityParameter = None,
    text: TextParameter = None,
    correlation: CorrelationParameter = None,
    since: SinceParameter = None,
    until: UntilParameter = None,
    after: AfterParameter = None,
    before: BeforeParameter = None,
    limit: LimitParameter = 100,
    at: AtParameter = None,
) -> EventPage:
    """List the events that match a filter, newest first. With `after` alone, those that follow;
    with `at`, those that were stored at a moment of the past."""
    view = await view_of(request, services)
    history = view.history
    with clock_at(view.moment):
        event_filter = parse_filter(request)
    if after is not None:
        await services.bus.reach(after)
    records = await history.events(event_filter, after=after, before=before, limit=limit)
    oldest = records[-1].sequence if records else 0
    newest = records[0].sequence if records else after or 0
    has_older = bool(records) and (len(records) == limit or after is not None)
    if records and not has_older:
        # A page with long payloads ends before the limit.
        has_older = bool(
            await history.events(event_filter, before=oldest, limit=1, is_preview=True)
        )
    return EventPage(
        events=[build_event_item(record) for record in records],
        older=build_page_address(request, before=oldest) if has_older else None,
        newer=build_page_address(request, after=newest),
    )


@get("/api/events/{sequence:int}", opt=VIEWER, tags=["events"], responses=EVENT_PROBLEMS)
async def event(
    request: Request[Any, Any, Any], services: NamedDependency[Services], sequence: FromPath[int]
) -> EventItem:
    """Return one event by its sequence."""
    record = await scoped_view(services, request).history.event(sequence)
    if record is None:
        raise NotFoundException(
            f"There is no event {sequence}. It may have been removed because it was older than the"
            " retention period."
        )
    return build_event_item(record)
