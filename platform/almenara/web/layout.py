"""Whole pages: the layout around their content, its navigation, and pages that report a problem."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from litestar import MediaType, Request, Response

from almenara.panels.builtin.alerts import BADGE, count_urgent
from almenara.panels.filters import PanelFilters
from almenara.panels.panel import Panel
from almenara.panels.time_window import LIVE
from almenara.panels.view import View
from almenara.security.modes import SIGN_IN_OFF
from almenara.signals import now
from almenara.web.authorization import scoped_view
from almenara.web.dashboards import DEFAULT_DASHBOARD, Dashboard
from almenara.web.services import Services
from almenara.web.state import get_auth_context
from almenara.web.time_control import build_time_control, keep_window
from almenara.web.timed_view import get_timed_request

PageRequest = Request[Any, Any, Any]

EVENT_PAGES: Final = {"event": "events", "timeline": "events"}
"""Pages without an entry in the navigation, and the page they belong to."""
REVALIDATE: Final = {"cache-control": "private, no-cache"}
PAGES_WITHOUT_STATE: Final = ("account", "problem", "sign in", "sign out")
"""Pages that show no signals, so that neither "live" nor "as of" means anything on them."""


class NavigationEntry(msgspec.Struct, frozen=True):
    """A link of the navigation."""

    title: str
    address: str
    current: str
    """The value of `aria-current`: `page` for the page itself, `true` for one that belongs to it,
    empty for all others."""
    icon: str = ""
    """The static file with the image in front of the title; empty for none."""


def render_page(
    services: Services,
    request: PageRequest,
    template: str,
    context: Mapping[str, Any],
    *,
    name: str,
    title: str,
    channels: Iterable[str] = (),
    status_code: int = 200,
) -> Response[str]:
    """Render a whole page. Its one WebSocket follows `channels`; without any it stays unchanged."""
    auth = get_auth_context(request)
    has_badge = auth is not None and services.alerting is not None
    timed = get_timed_request(request)
    window = LIVE if timed is None else timed.window
    # The past does not change, unless it is played.
    live = list(channels) if window.is_live or window.speed else []
    if has_badge and live:
        live.append(BADGE.channel(BADGE.parse_filters({}), window))
    panels = [("panel", channel) for channel in live]
    is_fragment = "hx-request" in request.headers
    dashboards = services.list_dashboards() if auth else []
    mode = services.access.mode
    content = services.renderer.render(
        template,
        {
            "page": name,
            "title": title,
            "version": services.version,
            # A page that only refreshes its panels inserts no scripts.
            "nonce": "" if is_fragment else request.scope["state"].get("nonce", ""),
            "asset": services.assets.url,
            "style_sheets": services.assets.plugin_style_sheets() if auth else [],
            "has_asset": services.assets.__contains__,
            "navigation": build_navigation(
                dashboards, name, has_alerts=services.alerting is not None
            ),
            "alert_badge": _render_badge(services, request) if has_badge else None,
            "time": build_time_control(request, timed) if auth else None,
            "identity": auth.identity if auth is not None else None,
            "signed_in": auth is not None and mode not in SIGN_IN_OFF,
            "sign_in_off": mode in SIGN_IN_OFF,
            "open_to_network": mode == "insecure-none",
            "live_url": f"/live?{urlencode(panels)}" if panels else "",
            "has_state": name not in PAGES_WITHOUT_STATE,
            "rendered_at": now(),
            "has_charts": False,
            "visible_events": services.settings.panels.visible_events,
            **context,
        },
    )
    return Response(
        keep_window(content, window),
        media_type=MediaType.HTML,
        status_code=status_code,
        headers=REVALIDATE,
    )


def render_problem_page(
    services: Services,
    request: PageRequest,
    status_code: int,
    title: str,
    detail: str,
    retry_address: str = "",
) -> Response[str]:
    """Render the page that reports a failed request. `retry_address` is where it can be sent again;
    empty where other pages are better."""
    return render_page(
        services,
        request,
        "problem_page.html",
        {
            "status_code": status_code,
            "detail": detail,
            "retry_address": retry_address,
            "has_sign_in": services.access.mode not in {*SIGN_IN_OFF, "proxy"},
        },
        name="problem",
        title=title,
        status_code=status_code,
    )


def _render_badge(services: Services, request: PageRequest) -> str:
    timed = get_timed_request(request)
    view = scoped_view(services, request) if timed is None else timed.view
    return services.renderer.render(BADGE.template, count_urgent(view))


def build_navigation(
    dashboards: Sequence[Dashboard], page: str, *, has_alerts: bool = False
) -> list[NavigationEntry]:
    """Return the entries of the navigation; `page` is the name of the page they are for.

    One entry is current: the page's own or, for a page without one, that of the page it belongs to.
    """
    addresses = {"overview": ("/", "Overview", ""), "events": ("/events", "Events", "")}
    if has_alerts:
        addresses["alerts"] = ("/alerts", "Alerts", "")
    for dashboard in sorted(dashboards, key=lambda each: each.order):
        if dashboard.navigation and dashboard.name != DEFAULT_DASHBOARD:
            entry = dashboard.address, dashboard.title, dashboard.icon
            addresses[f"dashboard {dashboard.name}"] = entry
    addresses["dashboards"] = ("/dashboards", "Dashboards", "")
    addresses["explore"] = ("/explore", "Metrics", "")
    addresses["sources"] = ("/sources", "Sources", "")
    parent = EVENT_PAGES.get(page) or page.partition(".")[0]
    current, relation = (page, "page") if page in addresses else (parent, "true")
    return [
        NavigationEntry(title, address, relation if name == current else "", icon)
        for name, (address, title, icon) in addresses.items()
    ]


async def render_panel(services: Services, view: View, panel: Panel, filters: PanelFilters) -> str:
    """Render one panel for a viewer."""
    return await panel.render(view, filters, services.renderer)


def strip_parameters(request: PageRequest, accepted: frozenset[str]) -> dict[str, str]:
    """Return the accepted parameters of an address without blanks and empty values.

    Where this differs from what the address holds, the page redirects, so that the addresses that
    people share have no empty fields of a form in them.
    """
    return {
        name: value.strip()
        for name, value in request.query_params.items()
        if name in accepted and value.strip()
    }
