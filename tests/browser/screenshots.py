"""Takes the pictures of the README from the demo: `make screenshots`."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers import free_port, wait_until

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
DESKTOP, PHONE = (1440, 900), (390, 844)
SHOTS = (
    ("overview", "/", DESKTOP, "dark"),
    ("overview-light", "/", DESKTOP, "light"),
    ("events", "/events", DESKTOP, "dark"),
    ("overview-phone", "/", PHONE, "dark"),
    ("events-phone", "/events", PHONE, "dark"),
    ("sources", "/sources", DESKTOP, "dark"),
    ("ray", "/dashboards/ray", DESKTOP, "dark"),
    ("ray-phone", "/dashboards/ray", PHONE, "dark"),
)


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
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "almenara", "demo", "--port", str(port)]
        demo = subprocess.Popen([*command, "--data-dir", data, "--rate", "40"])
        try:
            wait_until(lambda: up(f"{url}/readyz"), "the demo")
            time.sleep(float(os.environ.get("WARM_UP", "150")))
            take(url)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(30)


def take(url: str) -> None:
    path = os.environ.get("ALMENARA_CHROMIUM") or None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, address, (width, height), theme in SHOTS:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=theme,  # type: ignore[arg-type]
                device_scale_factor=2 if width < 500 else 1,
            )
            page = context.new_page()
            page.goto(url + address)
            page.locator('#live[data-state="live"]').wait_for()
            page.wait_for_timeout(3000)
            page.screenshot(path=FOLDER / f"{name}.png")
            context.close()
        context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark")
        page = context.new_page()
        page.goto(f"{url}/events?severity=ERROR")
        page.locator('#live[data-state="live"]').wait_for()
        page.locator("#event-rows .event a").first.click()
        page.locator(".detail").first.wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=FOLDER / "event.png")
        link = page.locator(".detail a[href^='/timeline']").first
        page.goto(url + str(link.get_attribute("href")))
        page.wait_for_timeout(500)
        page.screenshot(path=FOLDER / "timeline.png")
        browser.close()


if __name__ == "__main__":
    main()
