"""The pages of alerts in a browser: live, by keyboard, on a phone, and without scripts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import pathlib

import almenara
from almenara.sdk import every
from almenara.signals import Resource, Severity

FAILING = pathlib.Path(__file__).parent / "failing.txt"


class Pods:
    name = "pods"

    async def run(self, publish):
        async for _ in every(0.2):
            failing = FAILING.read_text().split("|")
            names = {"web-0", "web-1", "<img src=x onerror=alert(1)>", *failing} - {""}
            await publish([
                Resource(
                    kind="pod", namespace="prod", name=name,
                    status="CrashLoopBackOff" if name in failing else "Running",
                    severity=Severity.ERROR if name in failing else Severity.INFO,
                )
                for name in sorted(names)
            ])


@almenara.hookimpl
def almenara_sources(settings):
    return [Pods()]
"""
RULE = {
    "name": "crash-looping",
    "severity": "ERROR",
    "when": {"resource": {"kind": "pod", "status": ["CrashLoop*"]}},
    "annotations": {"summary": "Pod {{ name }} is crash-looping"},
    "runbook": "https://runbooks.example/crash",
}
RECEIVER = {
    "name": "on-call-of-the-platform", "kind": "webhook",
    "settings": {"url": "http://127.0.0.1:9/"},
}  # fmt: skip


class Pods:
    """A running Almenara whose pods a test lets fail."""

    def __init__(self, folder: Path) -> None:
        plugins = folder / "plugins"
        plugins.mkdir()
        self.file = plugins / "failing.txt"
        self.fail()
        (plugins / "pods.py").write_text(PLUGIN, "utf-8")
        config = {
            "alerting": {"enabled": True, "rules": [RULE], "receivers": [RECEIVER],
                         "route": {"receivers": [RECEIVER["name"]]}},
            "plugins_dir": str(plugins), "plugins": {"disabled": ["nats"]},
        }  # fmt: skip
        self.almenara = Almenara(folder / "almenara", config=config)

    def fail(self, *names: str) -> None:
        self.file.write_text("|".join(names), "utf-8")


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    pods = Pods(tmp_path)
    with pods.almenara:
        yield pods


def test_alert_appears_is_acknowledged_by_keyboard_and_resolves(pods: Pods, page: Page) -> None:
    page.goto(f"{pods.almenara.url}/alerts")
    expect(page.get_by_text("No alerts.")).to_be_visible()
    pods.fail("web-0")
    urgent = page.get_by_role("region", name="Needs attention")
    expect(urgent.get_by_role("link", name="Pod web-0 is crash-looping")).to_be_visible(
        timeout=20_000
    )
    badge = page.locator("#panel-alert-badge a")
    expect(badge).to_contain_text("1 alert")
    button = urgent.get_by_role("button", name="Acknowledge Pod web-0 is crash-looping")
    button.focus()
    page.keyboard.press("Enter")
    # Where the next alert of the rule would be: the page does not start again at its top.
    expect(page).to_have_url(f"{pods.almenara.url}/alerts#rule-crash-looping")
    acknowledged = page.get_by_role("region", name="Acknowledged")
    expect(acknowledged.get_by_role("link", name="Pod web-0 is crash-looping")).to_be_visible()
    expect(badge).to_have_count(0)
    acknowledged.get_by_role("link", name="Pod web-0 is crash-looping").click()
    expect(page.get_by_role("link", name="https://runbooks.example/crash")).to_be_visible()
    history = page.get_by_role("region", name="History")
    expect(history.get_by_role("listitem")).to_have_count(2)
    pods.fail()
    expect(history.get_by_role("listitem")).to_have_count(3, timeout=20_000)
    expect(history).to_contain_text("resolved")


def test_page_of_an_alert_offers_the_action_that_applies(pods: Pods, page: Page) -> None:
    pods.fail("web-0")
    page.goto(f"{pods.almenara.url}/alerts")
    link = page.get_by_role("link", name="Pod web-0 is crash-looping").last
    address = str(link.get_attribute("href", timeout=20_000))
    page.goto(pods.almenara.url + address)
    acknowledge = page.get_by_role("button", name="Acknowledge", exact=True)
    take_back = page.get_by_role("button", name="Unacknowledge")
    expect(acknowledge).to_be_visible()
    expect(take_back).to_be_hidden()
    other = page.context.new_page()
    other.goto(pods.almenara.url + address)
    other.get_by_role("button", name="Acknowledge", exact=True).click()
    expect(take_back).to_be_visible()
    expect(acknowledge).to_be_hidden()
    expect(page.get_by_label("Comment")).to_be_hidden()
    take_back.click()
    expect(acknowledge).to_be_visible()
    expect(take_back).to_be_hidden()
    pods.fail()
    expect(acknowledge).to_be_hidden(timeout=20_000)
    expect(take_back).to_be_hidden()
    expect(page.get_by_role("button", name="Assign", exact=True)).to_be_hidden()
    expect(page.get_by_role("link", name="Silence…")).to_be_visible()


def test_overview_groups_alerts_of_a_rule_and_an_opened_group_stays_open(
    pods: Pods, page: Page
) -> None:
    page.goto(pods.almenara.url)
    attention = page.locator("#panel-attention")
    expect(attention).to_contain_text("No alert needs attention.")
    pods.fail("web-0")
    expect(attention.get_by_role("link", name="Pod web-0 is crash-looping")).to_be_visible(
        timeout=20_000
    )
    pods.fail("web-0", "web-1", *(f"api-{number}" for number in range(6)))
    group = attention.get_by_role("link", name="8 alerts of crash-looping")
    expect(group).to_be_visible(timeout=20_000)
    group.click()
    rows = page.get_by_role("region", name="Needs attention").locator(".alert-row")
    expect(rows.filter(visible=True)).to_have_count(5)
    page.get_by_text("3 more").click()
    expect(rows.filter(visible=True)).to_have_count(8)
    pods.fail("web-0", *(f"api-{number}" for number in range(6)))
    expect(rows.filter(visible=True)).to_have_count(7, timeout=20_000)


def test_silence_form_previews_and_creates(pods: Pods, page: Page) -> None:
    pods.fail("web-0", "web-1")
    wait_until(lambda: "web-1 is crash" in pods.almenara.text("/alerts"), "two alerts", 60)
    page.goto(f"{pods.almenara.url}/alerts/silences")
    page.get_by_label("Matchers, one per line").fill("name=web-1")
    page.get_by_label("Comment").fill("upgrade")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("Covers 1 active alert:")).to_be_visible()
    page.get_by_role("button", name="Create").click()
    row = page.get_by_role("row", name=re.compile("upgrade"))
    expect(row).to_be_visible()
    expect(row.locator("td[data-label='Ends'] time")).to_have_text("in 4h")
    row.get_by_role("button", name=re.compile("^End silence")).click()
    expect(page.get_by_text("No silences.")).to_be_visible()


def test_pages_fit_a_phone_and_hostile_names_stay_text(pods: Pods, page: Page) -> None:
    pods.fail("<img src=x onerror=alert(1)>")
    wait_until(lambda: "is crash" in pods.almenara.text("/alerts"), "an alert", 60)
    page.set_viewport_size({"width": 390, "height": 844})
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    link = re.search(r'href="(/alerts/rules/crash-looping/\w+)"', pods.almenara.text("/alerts"))
    assert link is not None
    rule = "/alerts/rules/crash-looping"
    others = ("/alerts", "/alerts/rules", rule, "/alerts/silences", "/alerts/receivers")
    for address in (link[1], *others, "/panels/alerts"):
        page.goto(pods.almenara.url + address)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, (address, width)
    page.goto(f"{pods.almenara.url}/alerts/silences")
    expect(page.get_by_label("Matchers, one per line")).to_be_visible()
    page.get_by_text("Only at certain times").click()
    expect(page.locator("#zone")).to_be_visible()
    page.goto(f"{pods.almenara.url}/alerts")
    expect(page.get_by_text("Pod <img src=x onerror=alert(1)> is crash-looping")).to_be_visible()


def test_pages_work_without_scripts(pods: Pods, browser: Browser) -> None:
    pods.fail("web-0")
    wait_until(lambda: "web-0 is crash" in pods.almenara.text("/alerts"), "an alert", 60)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{pods.almenara.url}/alerts")
    page.get_by_role("button", name=re.compile("^Acknowledge Pod web-0")).click()
    expect(page.get_by_role("region", name="Acknowledged")).to_contain_text("Pod web-0")
    context.close()


def test_alert_is_assigned_and_its_page_shows_what_happened(pods: Pods, page: Page) -> None:
    pods.fail("web-0")
    wait_until(lambda: "web-0 is crash" in pods.almenara.text("/alerts"), "an alert", 60)
    page.goto(f"{pods.almenara.url}/alerts")
    page.get_by_role("link", name="Pod web-0 is crash-looping").click()
    page.get_by_label("Assign to").fill("grace")
    page.get_by_role("button", name="Assign", exact=True).click()
    expect(page.get_by_role("region", name="Status")).to_contain_text("to grace")
    history = page.get_by_role("region", name="History")
    expect(history).to_contain_text("assigned")
    lanes = history.get_by_role("img", name="Statuses over time: firing")
    expect(lanes).to_be_visible()
    page.get_by_role("link", name="crash-looping", exact=True).click()
    fired = page.get_by_role("region", name="Fired")
    expect(fired.get_by_role("img", name=re.compile("1 in all"))).to_be_visible()
    expect(page.get_by_role("region", name="Active alerts")).to_contain_text("Pod web-0")


def test_silence_with_a_window_is_created(pods: Pods, page: Page) -> None:
    page.goto(f"{pods.almenara.url}/alerts/silences")
    page.get_by_label("Matchers, one per line").fill("name=web-1")
    page.get_by_label("Comment").fill("maintenance")
    page.get_by_text("Only at certain times").click()
    page.get_by_label("Sat").check()
    page.get_by_label("From", exact=True).fill("02:00")
    page.locator("#zone").fill("Europe/Madrd")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("A window needs both times")
    expect(page.get_by_label("Sat")).to_be_checked()
    page.get_by_label("To", exact=True).fill("06:00")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("did you mean Europe/Madrid")
    page.locator("#zone").fill("Europe/Madrid")
    # On other days, a shorter silence would end before its window opens, and is refused.
    page.get_by_label("Duration").select_option("168")
    page.get_by_role("button", name="Create").click()
    row = page.get_by_role("row", name=re.compile("maintenance"))
    expect(row).to_contain_text("sat 02:00 to 06:00 Europe/Madrid")


SPY = """
window.announced = [];
window.Notification = class extends EventTarget {
  static permission = "granted";
  static requestPermission = async () => "granted";
  constructor(title, options) { super(); window.announced.push(options.body); }
};
window.sounds = 0;
const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (at) { window.sounds += 1; return start.call(this, at); };
"""


def test_browser_announces_alerts_where_that_is_switched_on(pods: Pods, page: Page) -> None:
    page.add_init_script(SPY)
    page.goto(f"{pods.almenara.url}/alerts")
    pods.fail("web-0")
    expect(page).to_have_title(re.compile("^▲1 Alerts"), timeout=20_000)
    assert page.evaluate("[announced.length, sounds]") == [0, 0]
    for name in ("Notify in this browser", "Sound"):
        button = page.get_by_role("button", name=name)
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "true")
    before = page.evaluate("sounds")
    pods.fail("web-0", "web-1")
    wait_until(lambda: page.evaluate("announced.length") == 1, "an announcement", 60)
    assert page.evaluate("announced") == ["2 alerts need attention"]
    assert page.evaluate("sounds") > before
    # The switches last, and an alert that ends announces nothing.
    page.reload()
    expect(page.get_by_role("button", name="Sound")).to_have_attribute("aria-pressed", "true")
    pods.fail("web-0")
    expect(page).to_have_title(re.compile("^▲1 Alerts"), timeout=20_000)
    assert page.evaluate("announced") == []
