"""A panel on a page of its own, as for a wall screen, and the files it can be downloaded as."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException, ValidationException
from litestar.params import FromPath
from litestar.response import Redirect

from almenara.clock import clock_at
from almenara.config.suggestions import suggest
from almenara.panels.formats import encode_query
from almenara.panels.time_window import TIME_PARAMETERS
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.dashboards import chart_address
from almenara.web.filter_form import build_panel_form, suggest_values
from almenara.web.layout import (
    PageRequest,
    render_page,
    render_panel,
    render_problem_page,
    strip_parameters,
)
from almenara.web.routes.api.parameters import refuse_time
from almenara.web.services import Services
from almenara.web.state import get_auth_context
from almenara.web.timed_view import read_time, select_filters


@get("/panels/{name:str}", name="panel", opt=VIEWER, include_in_schema=False)
async def panel(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[str] | Redirect:
    """Render one panel with its filters, and a link to the dashboard that has it."""
    panel = services.panels.get(name)
    if panel is None:
        hint = suggest(name, services.panels.names_for(scoped_view(services, request)))
        sentence = hint if hint.endswith("?") else f"{hint}."
        detail = f"There is no panel {name!r}; {sentence} Is its plugin enabled?"
        return render_problem_page(services, request, 404, "Panel not found", detail)
    values = strip_parameters(request, panel.filters | set(TIME_PARAMETERS))
    if values != dict(request.query_params):
        return Redirect(f"/panels/{name}" + encode_query(values), status_code=303)
    problem = None
    timed = await read_time(services, request)
    view, window = timed.view, timed.window
    with clock_at(view.moment):
        try:
            filters = panel.parse_filters(select_filters(values, window))
        except ValueError as error:
            problem, filters = str(error), panel.parse_filters({})
    dashboards = [
        dashboard
        for dashboard in services.list_dashboards()
        if dashboard.navigation and any(place.panel.name == name for place in dashboard.panels)
    ]
    fields = sorted(panel.filters - {"sort"})
    return render_page(
        services,
        request,
        "panel_page.html",
        {
            "panel": panel,
            "chart_address": chart_address(panel, filters),
            "anchor": panel.anchor_for(filters),
            "has_charts": panel.read_chart is not None,
            "content": await render_panel(services, view, panel, filters),
            "dashboard": dashboards[-1] if dashboards else None,
            **build_panel_form(
                f"/panels/{name}",
                fields,
                values,
                problem,
                [panel.filter_fields],
                suggest_values(view, panel.plugin, fields),
            ),
        },
        name="panel",
        title=panel.title,
        channels=[panel.channel(filters, window)],
        status_code=400 if problem or timed.problem else 200,
    )


@get(
    "/panels/{name:str}/exports/{export:str}", name="panel export", opt=VIEWER,
    include_in_schema=False,
)  # fmt: skip
async def panel_export(
    request: PageRequest,
    services: NamedDependency[Services],
    name: FromPath[str],
    export: FromPath[str],
) -> Response[bytes]:
    """Render a panel with its filters as a file. Raises what its template raises."""
    panel = services.panels.get(name)
    file = next((each for each in panel.exports if each.name == export), None) if panel else None
    if panel is None or file is None:
        raise NotFoundException(f"There is no panel {name!r} with an export {export!r}.")
    context = get_auth_context(request)
    with services.exports.run(context.user_key if context is not None else ""):
        timed = await read_time(services, request)
        if timed.problem:
            raise refuse_time(timed.reason, timed.window, TIME_PARAMETERS)
        values = select_filters(strip_parameters(request, panel.filters), timed.window)
        with clock_at(timed.view.moment):
            try:
                filters = panel.parse_filters(values)
            except ValueError as error:
                raise ValidationException(str(error)) from None
        text = await panel.render_export(file, timed.view, filters, services.renderer)
    return Response(
        text.encode("utf-8", "replace"),
        media_type=file.media_type,
        headers={
            "content-disposition": f'attachment; filename="{name}.{export}"',
            "cache-control": "private, no-store",
        },
    )
