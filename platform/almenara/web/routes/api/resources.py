"""Resources as JSON."""

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.routes.api.models import ResourceItem, build_resource_item
from almenara.web.routes.api.parameters import (
    PARAMETER_PROBLEMS,
    KindParameter,
    check_parameters,
)
from almenara.web.services import Services


@get("/api/resources", opt=VIEWER, tags=["resources"], responses=PARAMETER_PROBLEMS)
async def resources(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    kind: KindParameter = None,
) -> list[ResourceItem]:
    """List the latest known state of each resource."""
    check_parameters(request, {"kind"})
    known = scoped_view(services, request).resources
    return [
        build_resource_item(resource, known.metrics(resource))
        for resource in (known.all() if kind is None else known.of_kind(kind))
    ]
