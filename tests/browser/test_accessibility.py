"""Every page of the router and of the dashboards, checked by axe-core and with a keyboard."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from support.application import Almenara
from support.paths import TESTS
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until
from support.simulated_kubernetes import simulated_kubernetes
from support.simulated_ray import simulated_ray
from support.site_map import find_addresses, page_kinds

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
ALERT_PAGES = [kind for kind in page_kinds() if kind.startswith("/alerts")]
WALL_SCREEN = "/panels/alerts"
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


@pytest.fixture(scope="module")
def addresses(fleet: Almenara) -> Mapping[str, Sequence[str]]:
    """Addresses of each page."""
    return find_addresses(fleet.text)


@pytest.fixture
def still_page(browser: Browser) -> Iterator[Page]:
    """A page without animations."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme="dark", reduced_motion="reduce"
    )
    yield context.new_page()
    context.close()


def find_violations(page: Page, axe: str, *, is_light: bool = True) -> list[Any]:
    """The violations of an open page, in both themes."""
    page.evaluate(axe)
    violations: list[Any] = page.evaluate(FIND_VIOLATIONS, RULES["dark"])
    if is_light:
        page.emulate_media(color_scheme="light")
        violations += page.evaluate(FIND_VIOLATIONS, RULES["light"])
        page.emulate_media(color_scheme="dark")
    return violations


@pytest.mark.parametrize("kind", page_kinds())
def test_page_has_no_serious_axe_violations(
    fleet: Almenara, addresses: Mapping[str, Sequence[str]], still_page: Page, axe: str, kind: str
) -> None:
    assert addresses[kind], "no link leads to the page; add one, or an address to PROBLEMS"
    violations = {}
    for address in addresses[kind]:
        still_page.goto(fleet.url + address)
        # Colors do not depend on the filters.
        violations[address] = find_violations(still_page, axe, is_light=address.count("=") <= 2)
    assert not any(violations.values()), violations


def test_drawer_has_no_serious_axe_violations(fleet: Almenara, still_page: Page, axe: str) -> None:
    still_page.goto(f"{fleet.url}/events")
    still_page.locator("#event-rows .event-link").first.click()
    still_page.locator("#drawer .detail").first.wait_for()
    assert find_violations(still_page, axe) == []


def test_sign_in_page_has_no_serious_axe_violations(tmp_path: Path, page: Page, axe: str) -> None:
    almenara = Almenara(
        tmp_path / "a", "nats://127.0.0.1:1", plugins__disabled="[nats]", auth__mode="token"
    )
    almenara.command("access", "rotate")
    with almenara:
        page.goto(almenara.url + "/")
        expect(page.get_by_role("textbox")).to_be_visible()
        assert find_violations(page, axe) == []


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


@pytest.mark.parametrize(
    "kind", [*(each for each in page_kinds() if "alerts" in each), WALL_SCREEN]
)
def test_pages_of_alerts_are_reached_by_keyboard(
    fleet: Almenara, addresses: Mapping[str, Sequence[str]], page: Page, kind: str
) -> None:
    address = addresses.get(kind, [kind])[0]
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
