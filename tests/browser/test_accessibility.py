"""Every page, looked at by axe-core, and used with a keyboard alone."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from support.application import Almenara
from support.paths import TESTS

HERE = TESTS / "axe"
LOOKED_FOR = """
async (rules) => (await axe.run(document, {runOnly: rules, resultTypes: ["violations"]})).violations
  // Cells of pods are as large as what they ask for; the table of pods has the same links.
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
PAGES = (
    "/", "/events", "/events?severity=ERROR&type=kubernetes.node.*",
    "/events?text=nothing-at-all", "/events?since=x",
    "/timeline?correlation=deployment%2Fcontext%2Fcontext-indexer", "/sources", "/nothing",
    # Of what there is much a part is enough: it is the same markup.
    *(f"{KUBERNETES}{it}?namespace=ray" for it in (".pods", ".nodes", ".events", ".cluster")),
    KUBERNETES,
    f"{KUBERNETES}?group=workload&namespace=council", f"{KUBERNETES}.pods?text=nothing",
    f"{KUBERNETES}.node?name=worker-01",
    f"{KUBERNETES}.workload?namespace=context&name=Deployment/context-indexer",
    f"{KUBERNETES}.pod?namespace=context&name=neo4j-0",
    f"{KUBERNETES}.access", f"{KUBERNETES}.yaml?namespace=context&name=Pod/neo4j-0",
    "/panels/kubernetes.pods?namespace=ray",
)  # fmt: skip
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


def faults(page: Page, axe: str, theme: str = "dark") -> list[Any]:
    page.evaluate(axe)
    found: list[Any] = page.evaluate(LOOKED_FOR, RULES[theme])
    return found


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_pages_have_no_serious_axe_violations(
    cluster: Almenara, browser: Browser, axe: str, theme: Any
) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme=theme, reduced_motion="reduce"
    )
    page = context.new_page()
    found: dict[str, Any] = {}
    # The colours of the other pages are the same ones.
    for address in PAGES if theme == "dark" else PAGES[::3]:
        page.goto(cluster.url + address)
        if these := faults(page, axe, theme):
            found[address] = these
    page.goto(f"{cluster.url}/events")
    page.locator("#event-rows .event-link").first.click()
    page.locator("#drawer .detail").first.wait_for()
    if these := faults(page, axe, theme):
        found["the drawer"] = these
    context.close()
    assert not found, "\n".join(f"{address} {these}" for address, these in found.items())


def test_sign_in_page_has_no_serious_axe_violations(tmp_path: Path, page: Page, axe: str) -> None:
    almenara = Almenara(
        tmp_path / "a", "nats://127.0.0.1:1", plugins__disabled="[nats]", auth__mode="token"
    )
    almenara.command("access", "rotate")
    with almenara:
        page.goto(almenara.url + "/")
        expect(page.get_by_role("textbox")).to_be_visible()
        assert faults(page, axe) == []


def test_pages_show_focus_and_honor_reduced_motion(cluster: Almenara, page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    for address in ("/", KUBERNETES, f"{KUBERNETES}.pod?namespace=context&name=neo4j-0"):
        page.goto(cluster.url + address)
        for _ in range(30):
            page.keyboard.press("Tab")
            assert page.evaluate(FOCUSED) == "", address
        assert page.evaluate("document.getAnimations().length") == 0, address
