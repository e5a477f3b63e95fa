"""Resources as JSON, in pages."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Parameter

from almenara.panels.formats import encode_query
from almenara.web.authorization import VIEWER
from almenara.web.problems import BadParameterError
from almenara.web.routes.api.models import ResourceItem, build_resource_item
from almenara.web.routes.api.parameters import (
    PARAMETER_PROBLEMS,
    AtParameter,
    KindParameter,
    check_parameters,
    view_of,
)
from almenara.web.services import Services

DEFAULT_LIMIT: Final = 1_000
LARGEST_LIMIT: Final = 10_000

LimitParameter = Annotated[int, Parameter(
    ge=1, le=LARGEST_LIMIT, description="Maximum number of resources",
    examples=[Example(value=DEFAULT_LIMIT)])]  # fmt: skip
AfterParameter = Annotated[str | None, Parameter(
    description="Only resources after this one: kind, namespace and name as a JSON array. The"
    " `Link` header of a response has the next page.",
    examples=[Example(value='["pod","shop","web-1"]')])]  # fmt: skip


@get("/api/resources", opt=VIEWER, tags=["resources"], responses=PARAMETER_PROBLEMS)
async def resources(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    kind: KindParameter = None,
    after: AfterParameter = None,
    limit: LimitParameter = DEFAULT_LIMIT,
    at: AtParameter = None,
) -> Response[list[ResourceItem]]:
    """List the latest known state of each resource, by kind, namespace and name; with `at` that of
    a moment of the past. Where there are more, the header `Link` has the address of the next page.
    """
    check_parameters(request, {"kind", "after", "limit", "at"})
    view = await view_of(request, services)
    known = view.resources
    page = known.page(kind, parse_cursor(after), limit + 1)
    headers: dict[str, str] = {}
    if len(page) > limit:
        page.pop()
        cursor = msgspec.json.encode(page[-1].key).decode()
        query = {**request.query_params, "after": cursor}
        headers["link"] = f'<{request.url.path}{encode_query(query)}>; rel="next"'
    statuses = {state.name: str(state.status) for state in view.sources.states()}
    while True:
        seen = known.misses
        items = [build_resource_item(each, known.metrics(each), statuses) for each in page]
        if not await known.load_missing(seen):
            break
    return Response(items, headers=headers)


def parse_cursor(text: str | None) -> tuple[str, str, str] | None:
    """Return the key in a cursor; None without one. Raises `BadParameterError`."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=tuple[str, str, str])
    except msgspec.MsgspecError:
        raise BadParameterError(
            detail="after must be the kind, namespace and name of a resource as a JSON array, such"
            ' as ["pod","shop","web-1"]'
        ) from None
