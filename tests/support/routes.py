"""The routes of the application, from its router, and requests that reach each of them."""

import re
from types import SimpleNamespace
from typing import Any

from litestar import Litestar
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.routes import HTTPRoute, WebSocketRoute

from almenara.config import Settings
from almenara.web.app import create_router
from support.secured_server import OURS, THEIRS, SecuredServer


def router() -> Litestar:
    services: Any = SimpleNamespace(settings=Settings(), version="test")
    return create_router(services)


def handlers_of(route: Any) -> list[BaseRouteHandler]:
    if isinstance(route, HTTPRoute):
        return [each for each in route.route_handlers if "OPTIONS" not in each.http_methods]
    return [route.route_handler]


def routes() -> list[tuple[str, str, HTTPRouteHandler]]:
    """Every method and path of the application, from its router."""
    entries = [
        (str(method), route.path_format, handler)
        for route in router().routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method not in ("OPTIONS", "HEAD")
    ]
    return [(method, typed_path(handler, path), handler) for method, path, handler in entries]


def typed_path(handler: HTTPRouteHandler, path: str) -> str:
    return next((each for each in sorted(handler.paths) if is_same_path(each, path)), path)


def is_same_path(one: str, other: str) -> bool:
    return re.sub(r":\w+}", "}", one) == other


ROUTES = routes()


SOCKETS = [each.path for each in router().routes if isinstance(each, WebSocketRoute)]


WITHOUT_SCOPE = {
    "/static/{name:path}", "/api/openapi.json/{path}", "/account/tokens/{token_id:str}/revoke",
    "/account/sessions/{session_id:str}/end", "/intake/webhook/{name:str}",
    "/api/silences/{silence_id:str}/end",
    # tests/integration/alerting/test_access.py has their scopes.
    "/alerts/rules/{rule:str}/{fingerprint:str}", "/alerts/callbacks/{name:str}",
    "/api/alerts/{rule:str}/{fingerprint:str}/acknowledge",
    "/api/alerts/{rule:str}/{fingerprint:str}/assign",
    "/api/alerts/{rule:str}/{fingerprint:str}/unacknowledge",
    "/intake/otlp/v1/{kind:str}", "/intake/{kind:str}",
    # tests/integration/almenara_neo4j/test_application.py has its scope.
    "/panels/{name:str}/exports/{export:str}",
}  # fmt: skip


def filled(path: str, secured: SecuredServer) -> list[str]:
    """Addresses of a route, those of what is out of a scope among them."""
    if "{sequence" in path:
        address = re.sub(r"{sequence(:int)?}", "{}", path)
        return [address.format(each) for each in secured.sequences]
    if path == "/dashboards/{name:str}":
        return ["/dashboards/overview"]
    if path == "/panels/{name:str}":
        names = ("events", "failures", "numbers", "nats.streams", "strip", "sources", "histogram")
        return [f"/panels/{each}" for each in names]
    if path == "/api/charts/{name:str}":
        charts = ("nats.rates", "nats.sizes", "nats.backlog", "unknown")
        return [
            f"/api/charts/{each}{more}" for each in charts for more in ("", "?since=1d", "?x=1")
        ]
    if path == "/alerts/rules/{rule:str}":
        return ["/alerts/rules/nats-stream-offline", "/alerts/rules/unknown"]
    if path == "/explore":
        return [path, f"{path}?metric=rate", f"{path}?text=nats&metric=messages&kind=nats.stream"]
    if path == "/dashboards/{name:str}/export":
        return ["/dashboards/unknown/export"]
    if path == "/timeline":
        return [f"/timeline?correlation=corr-{THEIRS}", f"/timeline?correlation=corr-{OURS}"]
    if path in ("/events", "/api/events", "/api/events.ndjson", "/api/events.csv"):
        # Text of hidden events, written so that an echo of the filter is not taken for a leak.
        return [path, f'{path}?text="of team b"', f"{path}?origin=nats/*_B", f"{path}?type=teamb.*"]
    if path == "/api/v1/label/{label:str}/values":
        return [
            f"/api/v1/label/{each}/values" for each in ("__name__", "name", "origin", "unknown")
        ]
    if path in ("/api/v1/query", "/api/v1/query_range", "/api/v1/series"):
        more = "start=0&end=9999999999&step=1000000&match[]={origin=~'.%2B'}"
        return [path, f"{path}?query=last_over_time({{origin=~'.%2B'}}[1d])&{more}"]
    # A new route with parameters needs requests here, or its scope is not tested.
    assert "{" not in path or path in WITHOUT_SCOPE, f"{path}: add requests that reach it"
    return [re.sub(r"{\w+(:\w+)?}", "unknown", path)]
