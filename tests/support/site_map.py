"""The pages of the application: what they are by its router and its plugins, and addresses of each
by the links between them."""

import html
import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from almenara.config import load_settings
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.plugins.registry import load_plugins
from almenara.web import self_monitor
from almenara.web.dashboards import build_plugin_pages
from support.routes import ROUTES

NO_PAGES = {
    "/panels/{name:str}/exports/{export:str}", "/dashboards/{name:str}/export", "/step",
    "/static/{name:path}", "/healthz", "/readyz", "/metrics", "/sign-in/start",
    "/sign-in/callback",
    # Without sign-in it redirects.
    "/sign-in",
}  # fmt: skip
"""Routes for GET outside the API that answer with something else than a page."""
DASHBOARD, PANEL = "/dashboards/{name:str}", "/panels/{name:str}"
PROBLEMS = {"/events?text=nothing-at-all": "no event", "/events?since=x": "a wrong time",
            "/nothing": "no page"}  # fmt: skip
"""Addresses that no link leads to, and what their pages report."""
SHAPES_PER_PAGE = 2
LINK = re.compile(r'\shref="(/[^"#]*)')


@cache
def plugin_panels() -> PanelRegistry:
    """The panels and pages of Almenara and its plugins."""
    environment = {
        "ALMENARA_PLUGINS__KUBERNETES__CLUSTERS": json.dumps([{"kubeconfig": "/none"}]),
        "ALMENARA_PLUGINS__RAY__CLUSTERS": json.dumps([{"name": "x", "url": "http://127.0.0.1:1"}]),
    }
    settings, plugins = load_settings(None, environment), load_plugins()
    registry = PanelRegistry(Renderer())
    registry.add(self_monitor.NAME, self_monitor.list_panels(), None, self_monitor.list_pages())
    for name in plugins.modules:
        own = plugins.settings(name, settings)
        panels, pages = plugins.hooks.panels(name, own), plugins.hooks.pages(name, own)
        registry.add(name, panels, plugins.hooks.templates(name), pages)
    return registry


def plugin_dashboards() -> set[str]:
    """The addresses of the dashboards."""
    panels = plugin_panels()
    pages_of = (build_plugin_pages(panels, plugin) for plugin in panels.plugins())
    return {page.address for pages in pages_of for page in pages}


def group_of(panel: str) -> str:
    """The page that shows a panel alone: those of one plugin are one page."""
    plugin, _, name = panel.partition(".")
    return f"/panels/{plugin}.*" if name else "/panels/*"


@cache
def page_kinds() -> tuple[str, ...]:
    """Every page: the routes, with each dashboard and the panels of each plugin in place of theirs,
    and the pages of problems."""
    routes = {
        path
        for method, path, _ in ROUTES
        if method == "GET" and not path.startswith("/api/") and path not in NO_PAGES
    }
    kinds = routes - {DASHBOARD, PANEL} | plugin_dashboards() | set(map(group_of, plugin_panels()))
    return tuple(sorted(kinds | set(PROBLEMS.values())))


def kind_of(address: str) -> str | None:
    """The page that an address leads to; None for what is not a page."""
    if address in PROBLEMS:
        return PROBLEMS[address]
    path = address.partition("?")[0]
    if path in page_kinds():
        return path
    if path.startswith("/panels/"):
        return group_of(path.removeprefix("/panels/"))
    return next((kind for kind, pattern in _patterns().items() if pattern.fullmatch(path)), None)


@cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    return {
        kind: re.compile(re.sub(r"{\w+:int}", r"\\d+", re.sub(r"{\w+:str}", "[^/]+", kind)))
        for kind in page_kinds()
        if "{" in kind
    }


def find_addresses(load: Callable[[str], str]) -> Mapping[str, Sequence[str]]:
    """Addresses of each page, by following links. Those of one page that have the same parameters
    have the same markup. Of each panel there is one: dashboards have it as well.

    `load` returns the HTML of an address.
    """
    found: dict[str, list[str]] = {kind: [] for kind in page_kinds()}
    waiting = deque(kind for kind in found if re.fullmatch(r"/[\w./-]*", kind))
    shapes: dict[str, set[tuple[str, ...]]] = {}
    while waiting:
        address = waiting.popleft()
        if (kind := kind_of(address)) is None:
            continue
        path, _, query = address.partition("?")
        is_panel = kind.startswith("/panels/")
        known = shapes.setdefault(path if is_panel else kind, set())
        shape = tuple(sorted({pair.partition("=")[0] for pair in query.split("&")}))
        if shape in known or len(known) >= (1 if is_panel else SHAPES_PER_PAGE):
            continue
        known.add(shape)
        found[kind].append(address)
        main = load(address).partition("<main")[2].partition("</main>")[0]
        waiting.extend(map(html.unescape, LINK.findall(main)))
    return found | {kind: [address] for address, kind in PROBLEMS.items()}
