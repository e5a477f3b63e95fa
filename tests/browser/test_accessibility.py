"""Every page of the router and of the dashboards, checked by axe-core and with a keyboard."""

import re
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from almenara.config import load_settings
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.plugins.registry import load_plugins
from almenara.web.dashboards import build_plugin_pages
from almenara.web.routes import PAGES
from almenara.web.routes.dashboard_editor import DASHBOARD_EDITOR
from almenara.web.routes.saved_filters import SAVED_FILTERS
from support.application import Almenara
from support.paths import TESTS
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until
from support.simulated_kubernetes import simulated_kubernetes
from support.simulated_ray import simulated_ray

HERE = TESTS / "axe"
FIND_VIOLATIONS = """
async (rules) => (await axe.run(document, {runOnly: rules, resultTypes: ["violations"]})).violations
  // The size of a pod's cell shows its requests; the table of pods has the same links.
  .map(it => [it, it.nodes.map(one => one.target.join(" ")).filter(
    target => it.id !== "target-size" || !target.includes("k-cells"))])
  .filter(([it, nodes]) => nodes.length && ["serious", "critical"].includes(it.impact))
  .map(([it, nodes]) => it.id + ": " + nodes.slice(0, 3).join(", "))
"""
RULES = {
    "dark": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    # What else there is does not depend on the colours.
    "light": ["color-contrast"],
}
KUBERNETES = "/dashboards/kubernetes"
PROBLEMS = ("/events?text=nothing-at-all", "/events?since=x", "/nothing")
"""Pages that report something and that no link leads to."""
ALERT_PAGES = (
    "/alerts",
    "/alerts/rules",
    "/alerts/silences",
    "/alerts/receivers",
    "/panels/alerts",
)
"""The last is what a wall screen shows."""
SHAPES_PER_PATH = 2
VISITED = re.compile(
    r"/(dashboards|dashboard-editor|explore|panels|timeline|events|sources|account|alerts|changes"
    r"|event-filters)\b"
)
FOCUSED = """
() => {
  const it = document.activeElement, style = getComputedStyle(it);
  const paths = [...it.querySelectorAll("path, rect")].map(one => getComputedStyle(one).stroke);
  return it === document.body || style.outlineStyle !== "none" || style.boxShadow !== "none"
    || paths.some(one => one !== "none") || it.matches("main") ? "" : it.outerHTML.slice(0, 200);
}
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program of axe-core."""
    if shutil.which("npm") is None:
        pytest.skip("axe-core is installed with npm")
    folder = tmp_path_factory.mktemp("axe")
    shutil.copy(HERE / "package.json", folder)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


def run_axe(page: Page, axe: str, theme: str = "dark") -> list[Any]:
    page.evaluate(axe)
    violations: list[Any] = page.evaluate(FIND_VIOLATIONS, RULES[theme])
    return violations


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    """An Almenara with NATS, a simulated Kubernetes cluster and a simulated Ray cluster."""
    folder = tmp_path_factory.mktemp("fleet")
    with (
        NatsServer(folder / "nats") as nats,
        simulated_kubernetes(folder / "kubernetes", 80) as kubernetes,
        simulated_ray() as ray,
        Almenara(
            folder / "almenara", nats.url, alerting__enabled="true", **kubernetes, **ray
        ) as almenara,
    ):
        client = RawClient(nats.port)
        client.make_stream("FLEET", "fleet.>")
        client.publish("fleet.a.failed", b'{"error":"x","correlation_id":"US-1"}')
        client.close()
        wait_until(lambda: "context-indexer" in almenara.text(KUBERNETES), "the cluster")
        wait_until(lambda: "/dashboards/ray.job?" in almenara.text("/dashboards/ray"), "Ray jobs")
        wait_until(lambda: "FLEET" in almenara.text("/dashboards/nats"), "the stream")
        wait_until(lambda: "alert-row" in almenara.text("/alerts"), "alerts", 60)
        yield almenara


def declared_dashboards(almenara: Almenara) -> set[str]:
    """The addresses of all dashboards, by the pages that plugins declare."""
    settings = load_settings(None, almenara.environment)
    plugins = load_plugins()
    registry = PanelRegistry(Renderer())
    for name in plugins.modules:
        plugin_settings = plugins.settings(name, settings)
        panels = plugins.hooks.panels(name, plugin_settings)
        pages = plugins.hooks.pages(name, plugin_settings)
        registry.add(name, panels, plugins.hooks.templates(name), pages)
    return {
        dashboard.address
        for plugin in registry.plugins()
        for dashboard in build_plugin_pages(registry, plugin)
    }


def shape(address: str) -> tuple[str, tuple[str, ...]]:
    """The path of an address and its parameters: pages of one shape have the same markup."""
    path, _, query = address.partition("?")
    kind = re.sub(r"/\d+$", "/0", path)
    kind = re.sub(r"^/alerts/rules/[^/]+/[0-9a-f]{16}$", "/alerts/rules/0/0", kind)
    return kind, tuple(sorted({pair.partition("=")[0] for pair in query.split("&")}))


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_pages_have_no_serious_axe_violations(
    fleet: Almenara, browser: Browser, axe: str, theme: Any
) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme=theme, reduced_motion="reduce"
    )
    page = context.new_page()
    violations: dict[str, Any] = {}
    declared = declared_dashboards(fleet)
    routed = [
        path
        for handler in (*PAGES, *DASHBOARD_EDITOR, *SAVED_FILTERS)
        for path in handler.paths
        if "{" not in path and "GET" in handler.http_methods
    ]
    waiting = deque([*routed, *sorted(declared), *PROBLEMS])
    visited: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        address = waiting.popleft().partition("#")[0]
        path, _ = key = shape(address)
        if key in visited or sum(path == other for other, _ in visited) >= SHAPES_PER_PATH:
            continue
        visited.add(key)
        # Colours do not depend on the filters.
        if theme == "light" and "?" in address and len(key[1]) > 2:
            continue
        page.goto(fleet.url + address)
        if faults := run_axe(page, axe, theme):
            violations[address] = faults
        links = page.eval_on_selector_all(
            "main a[href^='/']", "links => links.map(link => link.getAttribute('href'))"
        )
        waiting.extend(link for link in links if VISITED.match(link))
    page.goto(f"{fleet.url}/events")
    page.locator("#event-rows .event-link").first.click()
    page.locator("#drawer .detail").first.wait_for()
    if faults := run_axe(page, axe, theme):
        violations["the drawer"] = faults
    context.close()
    paths = {path for path, _ in visited}
    assert declared | set(routed) <= paths
    about_one = {"/events/0", "/dashboards/kubernetes.pod", "/dashboards/ray.job", "/timeline",
                 "/alerts/rules/0/0"}  # fmt: skip
    assert about_one <= paths
    assert not violations, "\n".join(f"{page} {faults}" for page, faults in violations.items())


def test_sign_in_page_has_no_serious_axe_violations(tmp_path: Path, page: Page, axe: str) -> None:
    almenara = Almenara(
        tmp_path / "a", "nats://127.0.0.1:1", plugins__disabled="[nats]", auth__mode="token"
    )
    almenara.command("access", "rotate")
    with almenara:
        page.goto(almenara.url + "/")
        expect(page.get_by_role("textbox")).to_be_visible()
        assert run_axe(page, axe) == []


def test_pages_show_focus_and_honor_reduced_motion(cluster: Almenara, page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    for address in ("/", KUBERNETES, f"{KUBERNETES}.pod?namespace=context&name=neo4j-0"):
        page.goto(cluster.url + address)
        for _ in range(30):
            page.keyboard.press("Tab")
            assert page.evaluate(FOCUSED) == "", address
        assert page.evaluate("document.getAnimations().length") == 0, address


IDENTIFY = """
const identify = (one) => [one.tagName, ...["href", "formaction", "name", "value", "aria-label"]
  .map(name => one.getAttribute(name) || "")].join(" ");
"""
REACHABLE = f"""
() => {{
  {IDENTIFY}
  return [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
    .filter(one => one.checkVisibility({{visibilityProperty: true}}) && !one.disabled
      && one.tabIndex >= 0 && !one.closest("[hidden]"))
    .map(identify);
}}
"""
REACHED = f"() => {{ {IDENTIFY} return identify(document.activeElement); }}"


def test_pages_of_alerts_are_reached_by_keyboard(fleet: Almenara, page: Page) -> None:
    one = re.search(r'href="(/alerts/rules/[^/"]+)/([0-9a-f]{16})"', fleet.text("/alerts"))
    assert one is not None
    for address in (*ALERT_PAGES, one[1], f"{one[1]}/{one[2]}"):
        page.goto(fleet.url + address)
        reached: set[str] = set()
        # The pages are live: what appears meanwhile is reached in another round.
        for _ in range(3 * len(page.evaluate(REACHABLE)) + 5):
            page.keyboard.press("Tab")
            assert page.evaluate(FOCUSED) == "", address
            reached.add(page.evaluate(REACHED))
            if not set(page.evaluate(REACHABLE)) - reached:
                break
        assert not set(page.evaluate(REACHABLE)) - reached, address
