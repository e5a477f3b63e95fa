"""The pages of alerts: the list, one alert, the rules and the silences."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from almenara.alerting import ALERT
from almenara.alerting.matchers import Matcher, match_alert, match_all
from almenara.history import Filter
from almenara.panels.builtin.alerts import describe_alert, list_alerts
from almenara.panels.formats import encode_query
from almenara.panels.view import View
from almenara.sdk.calendar import DAYS
from almenara.security.identity import Role
from almenara.signals import Resource
from almenara.web.authorization import ALL_SOURCES, VIEWER
from almenara.web.csrf import csrf_token, set_form_cookie
from almenara.web.layout import PageRequest, render_page, render_panel, render_problem_page
from almenara.web.services import Services
from almenara.web.state import get_auth_context
from almenara.web.timed_view import read_time, timed_view

DURATIONS: Final = (
    ("1", "1 hour"), ("4", "4 hours"), ("12", "12 hours"), ("24", "1 day"), ("168", "1 week"),
    ("720", "30 days"), ("8760", "1 year"),
)  # fmt: skip
"""The durations of a silence that the form offers, in hours."""
EMPTY_FORM: Final = {
    "matchers": "", "hours": "4", "comment": "", "from": "", "to": "", "zone": "UTC",
    **{f"day-{day}": "" for day in DAYS},
}  # fmt: skip


def can_act(request: PageRequest) -> bool:
    """Whether the user may acknowledge alerts."""
    context = get_auth_context(request)
    return context is not None and context.identity.role >= Role.OPERATOR


def can_silence(request: PageRequest) -> bool:
    """Whether the user may create silences, which cover alerts of every scope."""
    context = get_auth_context(request)
    return can_act(request) and context is not None and context.identity.scope.sees_all_sources


def list_tabs(request: PageRequest) -> list[tuple[str, str]]:
    """Return the addresses of the pages of alerts that the user may open, with their titles."""
    context = get_auth_context(request)
    tabs = [("/alerts", "Alerts")]
    if context is not None and context.identity.scope.sees_all_sources:
        tabs += [("/alerts/rules", "Rules"), ("/alerts/silences", "Silences")]
        tabs.append(("/alerts/receivers", "Receivers"))
    return tabs


async def render_alert_page(
    request: PageRequest,
    services: Services,
    template: str,
    panel: str,
    *,
    title: str,
    tab: str = "",
    filters: Mapping[str, str] | None = None,
    status_code: int = 200,
    **context: Any,
) -> Response[str]:
    """Render a page of alerts around its one live panel."""
    timed = await read_time(services, request)
    view, window = timed.view, timed.window
    shown = services.panels[panel]
    parsed = shown.parse_filters(filters or {})
    values = {
        "tabs": list_tabs(request),
        "tab": tab,
        "enabled": services.alerting is not None,
        # What is done concerns the present.
        "can_act": can_act(request) and window.is_live,
        "can_silence": can_silence(request),
        "csrf": csrf_token(request),
        "panels": {panel: await render_panel(services, view, shown, parsed)},
        **context,
    }
    response = render_page(
        services, request, template, values, name="alerts", title=title,
        channels=[shown.channel(parsed, window)],
        status_code=400 if timed.problem else status_code,
    )  # fmt: skip
    set_form_cookie(request, response)
    return response


@get("/alerts", name="alerts", opt=VIEWER, include_in_schema=False)
async def alerts(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the alerts, those that need attention first."""
    return await render_alert_page(
        request, services, "alerts_page.html", "alerts", title="Alerts", tab="/alerts"
    )


@get("/alerts/rules", name="alert rules", opt=ALL_SOURCES, include_in_schema=False)
async def alert_rules(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the rules, with the last evaluation of each."""
    return await render_alert_page(
        request, services, "alert_rules_page.html", "alert-rules",
        title="Alert rules", tab="/alerts/rules",
    )  # fmt: skip


@get("/alerts/rules/{rule:str}", name="alert rule", opt=ALL_SOURCES, include_in_schema=False)
async def alert_rule(
    request: PageRequest, services: NamedDependency[Services], rule: FromPath[str]
) -> Response[str]:
    """Render one rule: its condition, its last evaluation, and when it fired."""
    known = services.alerting is not None and rule in services.alerting.rules.rules
    return await render_alert_page(
        request, services, "alert_rule_page.html", "alert-rule", title=f"Alert rule {rule}",
        tab="/alerts/rules", filters={"rule": rule}, rule=rule, status_code=200 if known else 404,
    )  # fmt: skip


@get("/alerts/silences", name="silences", opt=ALL_SOURCES, include_in_schema=False)
async def silences(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the silences, and the form that creates one."""
    # Not cut: without one of its matchers, a silence covers more.
    matchers = request.query_params.get("matchers", "")
    return await render_silences(request, services, {**EMPTY_FORM, "matchers": matchers})


async def render_silences(
    request: PageRequest,
    services: Services,
    form: Mapping[str, str],
    *,
    problem: str = "",
    preview: list[dict[str, Any]] | None = None,
) -> Response[str]:
    """Render the silences with what was entered in the form, its problem and its preview."""
    return await render_alert_page(
        request, services, "silences_page.html", "silences", title="Silences",
        tab="/alerts/silences", form=form, durations=DURATIONS, days=DAYS, problem=problem,
        preview=preview, status_code=400 if problem else 200,
    )  # fmt: skip


def preview_silence(view: View, matchers: list[Matcher]) -> list[dict[str, Any]]:
    """Return the alerts that matchers cover now, those that may fire soon included."""
    return [
        describe_alert(alert)
        for alert in list_alerts(view)
        if alert.status != "resolved"
        and match_all(
            matchers,
            {
                "severity": alert.state.get("severity", ""),
                **alert.state.get("labels", {}),
                "rule": alert.namespace,
            },
        )
    ]


# Below the rules: a rule may have the name of another page of alerts.
@get("/alerts/rules/{rule:str}/{fingerprint:str}", name="alert", opt=VIEWER,
     include_in_schema=False)  # fmt: skip
async def alert(
    request: PageRequest,
    services: NamedDependency[Services],
    rule: FromPath[str],
    fingerprint: FromPath[str],
) -> Response[str]:
    """Render one alert: why it fires, since when, and everything that happened to it."""
    view = await timed_view(services, request)
    known = view.resources.get(ALERT, rule, fingerprint)
    if (known is None or known.deleted) and not await has_history(view, f"{rule}/{fingerprint}"):
        detail = "There is no such alert. It may have been removed by the retention."
        return render_problem_page(services, request, 404, "Alert not found", detail)
    return await render_alert_page(
        request, services, "alert_page.html", "alert", title=f"Alert {rule}",
        filters={"rule": rule, "name": fingerprint}, rule=rule, fingerprint=fingerprint,
        silence_link="" if known is None or known.deleted else link_to_silence(known),
    )  # fmt: skip


def link_to_silence(alert: Resource) -> str:
    """Return the address of the form that creates a silence of an alert."""
    return "/alerts/silences" + encode_query({"matchers": "\n".join(map(str, match_alert(alert)))})


async def has_history(view: View, key: str) -> bool:
    """Whether history has a transition of an alert."""
    return bool(await view.history.events(Filter(type=f"{ALERT}.*", subject=key), limit=1))
