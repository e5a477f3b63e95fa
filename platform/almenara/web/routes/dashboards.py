"""Pages of panels: the overview, and the dashboards of plugins and of the configuration."""

from collections.abc import Mapping
from typing import Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Redirect

from almenara.clock import clock_at
from almenara.panels.formats import encode_query
from almenara.panels.time_window import TIME_PARAMETERS
from almenara.web.authorization import VIEWER
from almenara.web.dashboards import DEFAULT_DASHBOARD, Dashboard, apply_filters
from almenara.web.filter_form import build_panel_form, suggest_values
from almenara.web.layout import (
    PageRequest,
    render_page,
    render_panel,
    render_problem_page,
    strip_parameters,
)
from almenara.web.saved_items import SHARES
from almenara.web.services import Services
from almenara.web.state import get_identity
from almenara.web.timed_view import read_time, select_filters

SUBJECT_PARAMETERS: Final = ("namespace", "name")
"""The parameters that name the resource a page is about; they become part of its title."""


@get("/", name="overview", opt=VIEWER, include_in_schema=False)
async def overview(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the default dashboard."""
    dashboards = services.list_dashboards()
    default = next(dashboard for dashboard in dashboards if dashboard.name == DEFAULT_DASHBOARD)
    values = strip_parameters(request, frozenset(("sort", *TIME_PARAMETERS)))
    return await render_dashboard(services, request, default, values, name="overview")


@get("/dashboards/{name:str}", name="dashboard", opt=VIEWER, include_in_schema=False)
async def dashboard(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[str] | Redirect:
    """Render a dashboard; the parameters of the address are filters of its panels."""
    dashboards = {
        dashboard.name: dashboard for dashboard in services.list_dashboards(get_identity(request))
    }
    if name not in dashboards:
        known = ", ".join(each.title for each in dashboards.values() if each.navigation)
        detail = f"There is no dashboard {name!r}. Dashboards: {known}."
        return render_problem_page(services, request, 404, "Dashboard not found", detail)
    values = strip_parameters(request, dashboards[name].parameters | set(TIME_PARAMETERS))
    if values != dict(request.query_params):
        return Redirect(f"/dashboards/{name}" + encode_query(values), status_code=303)
    return await render_dashboard(
        services, request, dashboards[name], values, name=f"dashboard {name}"
    )


async def render_dashboard(
    services: Services,
    request: PageRequest,
    dashboard: Dashboard,
    values: Mapping[str, str],
    *,
    name: str,
) -> Response[str]:
    """Render a page of panels with the values of their filters."""
    timed = await read_time(services, request)
    view, window = timed.view, timed.window
    problem = None
    with clock_at(view.moment):
        try:
            dashboard = apply_filters(dashboard, select_filters(values, window))
        except ValueError as error:
            problem = str(error)
        panels = {
            place.key: await render_panel(
                services, view, place.panel, place.panel.parse_filters(place.filter)
            )
            for place in dashboard.panels
        }
    subject = [
        values[parameter]
        for parameter in SUBJECT_PARAMETERS
        if parameter in values and parameter not in dashboard.filters
    ]
    plugin = dashboard.name.partition(".")[0]
    return render_page(
        services,
        request,
        "dashboard_page.html",
        {
            "places": dashboard.panels,
            "has_charts": any(place.panel.read_chart for place in dashboard.panels),
            "panels": panels,
            "heading": dashboard.title,
            "subject": subject,
            "saved": find_saved(services, request, dashboard),
            **build_panel_form(
                dashboard.address,
                dashboard.filters,
                values,
                problem,
                [
                    dashboard.filter_fields,
                    *(place.panel.filter_fields for place in dashboard.panels),
                ],
                suggest_values(view, plugin, dashboard.filters),
            ),
        },
        name=name,
        title=" ".join([*subject[-1:], dashboard.title]),
        channels=[place.channel(window) for place in dashboard.panels],
        status_code=400 if problem or timed.problem else 200,
    )


def find_saved(
    services: Services, request: PageRequest, dashboard: Dashboard
) -> Mapping[str, object] | None:
    """Return who owns a saved dashboard and whether the viewer may edit it; None for others."""
    if not dashboard.is_saved:
        return None
    identity = get_identity(request)
    saved = services.saved_dashboards.find(dashboard.name, identity)
    if saved is None:
        return None
    return {
        "name": saved.name,
        "owner": saved.owner_name,
        "share": SHARES[saved.share],
        "is_editable": saved.is_editable(identity),
    }
