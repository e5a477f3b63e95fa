"""The status of Almenara itself as JSON: sources, plugins and health."""

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

from almenara.history import Filter
from almenara.panels.view import View
from almenara.plugins import PluginInfo
from almenara.supervisor import SourceState
from almenara.web.authorization import ALL_SOURCES, VIEWER, scoped_view
from almenara.web.routes.api.models import Health, format_api_time
from almenara.web.routes.api.parameters import (
    ACCESS_PROBLEMS,
    PARAMETER_PROBLEMS,
    AtParameter,
    check_parameters,
    view_of,
)
from almenara.web.services import Services


@get("/api/sources", opt=VIEWER, tags=["sources"], responses=PARAMETER_PROBLEMS)
async def sources(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    at: AtParameter = None,
) -> list[SourceState]:
    """List the sources with their status, with `at` as of a moment of the past; times are in
    microseconds since the Unix epoch."""
    check_parameters(request, {"at"})
    return (await view_of(request, services)).sources.states()


@get("/api/plugins", opt=ALL_SOURCES, tags=["sources"], responses=ACCESS_PROBLEMS)
async def plugins(services: NamedDependency[Services]) -> list[PluginInfo]:
    """List the plugins that were discovered, including failed and disabled ones."""
    return list(services.list_plugins())


@get("/api/health", opt=VIEWER, tags=["health"], responses=ACCESS_PROBLEMS)
async def health(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Health:
    """Report the status of Almenara. Always 200: read `status`, or probe `/readyz`."""
    view = scoped_view(services, request)
    states = view.sources.states()
    is_healthy = services.bus.write_problem is None and not any(
        state.has_problem for state in states
    )
    return Health(
        status="ok" if is_healthy else "degraded",
        version=services.version,
        started=format_api_time(services.started),
        sources={state.name: state.status for state in states},
        subscribers=services.hub.clients,
        events_stored=await view.history.count_stored(),
        last_sequence=await find_last_sequence(services, view),
        write_problem=services.bus.write_problem,
        warnings=(
            [
                *services.bus.warnings,
                *(services.bus.replica_problems or ()),
                *view.resources.warnings,
            ]
            if view.scope.sees_all_sources
            else []
        ),
    )


async def find_last_sequence(services: Services, view: View) -> int:
    """Return the newest sequence; for a limited scope that of the newest visible event, since any
    other would show how much is published that the scope hides."""
    if view.scope.sees_all_sources:
        return services.bus.last_sequence
    newest = await view.history.events(Filter(), limit=1, is_preview=True)
    return newest[0].sequence if newest else 0
