"""Takes the pictures of the documents from the demo: `make screenshots`.

`ONLY="past alerts"` takes those alone, and `WARM_UP` is how many seconds the demo runs before.
"""

import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError as Expired, sync_playwright

# The program runs without pytest, which adds this folder otherwise.
sys.path.insert(0, str(Path(__file__).parents[1]))

from support.application import Almenara
from support.paths import ROOT
from support.servers import free_port, wait_until
from support.simulated_kubernetes import simulated_kubernetes

FOLDER = ROOT / "docs" / "pictures"
DESKTOP, PHONE = (1280, 800), (390, 844)
KUBERNETES = "/dashboards/kubernetes"
FAILING = f"{KUBERNETES}.workload?namespace=context&name=Deployment/context-indexer"
EXPLORED = "/explore?metric=cpu&kind=kubernetes.pod&namespace=council&style=stacked&range=5m"
ONLY = os.environ.get("ONLY", "").split()
SHOTS = (
    ("overview", "/", DESKTOP, "dark"),
    ("overview-light", "/", DESKTOP, "light"),
    ("events", "/events", DESKTOP, "dark"),
    ("overview-phone", "/", PHONE, "dark"),
    ("events-phone", "/events", PHONE, "dark"),
    ("sources", "/sources", DESKTOP, "dark"),
    ("ray", "/dashboards/ray", DESKTOP, "dark"),
    ("ray-phone", "/dashboards/ray", PHONE, "dark"),
    ("kubernetes", KUBERNETES, DESKTOP, "dark"),
    ("kubernetes-light", KUBERNETES, DESKTOP, "light"),
    ("kubernetes-phone", KUBERNETES, PHONE, "dark"),
    ("kubernetes-workload", FAILING, DESKTOP, "dark"),
    ("kubernetes-events", f"{KUBERNETES}.events", DESKTOP, "dark"),
    ("past", f"{KUBERNETES}?at=60s", DESKTOP, "dark"),
    ("explore", EXPLORED, DESKTOP, "dark"),
    ("graph", "/dashboards/neo4j.graph", DESKTOP, "dark"),
    ("alerts", "/alerts", DESKTOP, "dark"),
)
LARGE = (
    ("kubernetes-5000", KUBERNETES, DESKTOP, "dark"),
    ("kubernetes-5000-nodes", f"{KUBERNETES}.nodes", DESKTOP, "light"),
)
OPENED = {"event", "timeline", "kubernetes-pod"}
QUALITY = 80
"""Of WebP: a picture stays below 150 KB, and its text sharp."""


def up(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except OSError:
        return False


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    path = os.environ.get("ALMENARA_CHROMIUM") or None
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        command = [sys.executable, "-m", "almenara", "demo", "--port", str(port)]
        demo = subprocess.Popen(
            [*command, "--data-dir", data, "--rate", "40"],
            env={**os.environ, "ALMENARA_ALERTING__ENABLED": "true"},
        )
        try:
            wait_until(lambda: up(f"{url}/readyz"), "the demo", 120)
            time.sleep(float(os.environ.get("WARM_UP", "150")))
            take(browser, url, SHOTS)
            take_room(browser, url)
            if not ONLY or OPENED.intersection(ONLY):
                take_opened(browser, url)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(30)
        if ONLY and not {name for name, *_ in LARGE}.intersection(ONLY):
            return
        folder = Path(data) / "large"
        with (
            simulated_kubernetes(folder, 5000) as settings,
            Almenara(folder, "nats://127.0.0.1:1", plugins__disabled="[nats]", **settings) as large,
        ):
            wait_until(lambda: "team-195" in large.text(KUBERNETES), "5,000 pods", 90)
            take(browser, large.url, LARGE)
        browser.close()


def take(
    browser: Browser, url: str, shots: tuple[tuple[str, str, tuple[int, int], str], ...]
) -> None:
    for name, address, (width, height), theme in shots:
        if ONLY and name not in ONLY:
            continue
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,  # type: ignore[arg-type]
            device_scale_factor=2 if width < 500 else 1,
        )
        page = context.new_page()
        open_page(page, url + address)
        page.wait_for_timeout(3000)
        keep(page, name)
        context.close()


def take_room(browser: Browser, url: str) -> None:
    """Take the room of a council that deliberates, while its agents write."""
    if ONLY and "council-room" not in ONLY:
        return
    context = browser.new_context(
        viewport={"width": DESKTOP[0], "height": 1000}, color_scheme="dark"
    )
    page = context.new_page()
    open_page(page, f"{url}/dashboards/agents")
    link = page.locator("main a[href^='/dashboards/agents.room']").first
    open_page(page, url + str(link.get_attribute("href")))
    # With proposals, and an agent that still writes.
    proposals = page.get_by_text("Proposal", exact=True)
    page.wait_for_timeout(6000)
    with contextlib.suppress(Expired):
        proposals.nth(1).wait_for(timeout=60_000)
    keep(page, "council-room")
    context.close()


def take_opened(browser: Browser, url: str) -> None:
    """What is seen after a click: an event in place, its timeline, a pod."""
    width, height = DESKTOP
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark")
    page = context.new_page()
    # Of an agent, whose story crosses the streams.
    open_page(page, f"{url}/events?severity=ERROR&type=agent.response.failed")
    page.locator("#event-rows .event a").first.click()
    page.locator(".detail").first.wait_for()
    page.wait_for_timeout(500)
    keep(page, "event")
    # The story of the event, not what happened around it.
    link = page.locator(".detail a[href^='/timeline?correlation']").first
    page.goto(url + str(link.get_attribute("href")))
    page.wait_for_timeout(2000)
    keep(page, "timeline")
    open_page(page, url + FAILING)
    page.locator("#panel-kubernetes-workload_pods tbody th a").first.click()
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(2000)
    keep(page, "kubernetes-pod")
    context.close()


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    is_past = "?at=" in address
    page.locator("#past-bar" if is_past else '#live[data-state="live"]').wait_for()


def keep(page: Page, name: str) -> None:
    """Write what is seen as WebP, which the browser makes itself."""
    cdp = page.context.new_cdp_session(page)
    taken = cdp.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    (FOLDER / f"{name}.webp").write_bytes(base64.b64decode(taken["data"]))


if __name__ == "__main__":
    main()
