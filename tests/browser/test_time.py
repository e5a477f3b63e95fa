"""The time control, the bar of the past, playback and the lanes, in a browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from almenara.signals import format_time, now
from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.hookspecs import Column, ResourceQuery, TablePanel
from almenara.signals import Event, Resource, Severity, now

class Shop:
    name = "shop"

    async def run(self, publish):
        number = 0
        while True:
            number += 1
            await publish([
                Resource(kind="shop.pod", name="web-1", status=f"turn-{number}"),
                Event(id=str(number), source="shop", type="shop.turn", subject="web-1", time=now(),
                      correlation="story",
                      severity=Severity.ERROR if number == 1 else Severity.INFO),
            ])
            await asyncio.sleep(0.5)

@almenara.hookimpl
def almenara_sources(context):
    return [Shop()]

@almenara.hookimpl
def almenara_panels():
    return [TablePanel(
        name="pods", title="Pods", query=ResourceQuery(kind="shop.pod"),
        columns=[Column(title="Name", path="name"), Column(title="Status", path="status")],
    )]
"""
SHOP = "/dashboards/shop"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("time")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "shop.py").write_text(PLUGIN)
    with Almenara(
        folder / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
    ) as running:
        wait_until(lambda: "turn-4<" in running.text(SHOP), "some turns")
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(
        timezone_id="Asia/Kolkata", viewport={"width": 390, "height": 844}
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert not errors
    context.close()


def status(page: Page) -> int:
    """The turn that the table shows."""
    text = page.locator("#panel-shop-pods td").first.inner_text()
    return int(text.removeprefix("turn-"))


def test_moment_is_chosen_in_the_zone_of_the_page(shop: Almenara, page: Page) -> None:
    page.goto(shop.url + SHOP)
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    # By keyboard alone.
    page.keyboard.press("c")
    menu = page.locator(".time-menu")
    expect(menu).to_be_visible()
    zone = page.get_by_label("Time zone")
    zone.fill("Europe/Madrid")
    zone.press("Enter")
    at = page.get_by_label(re.compile("^As of"))
    shown = page.locator(".time-menu time").first
    expect(shown).not_to_have_text(re.compile("^$"))
    local = at.input_value()
    at.press("Enter")
    expect(page.locator("#past-bar")).to_be_visible()
    moment = page.locator("#past-bar time.moment")
    expect(moment).to_have_text(local.replace("T", " "))
    assert re.search(r"at=[0-9T%A-Z:.-]+Z$", page.url)
    moment.hover()
    expect(moment).to_have_attribute("title", re.compile(r"UTC\+0[12]:00 · .* UTC$"))
    page.keyboard.press("c")
    expect(menu).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()


def test_range_stays_in_the_links_of_a_live_page(shop: Almenara, page: Page) -> None:
    page.goto(shop.url + SHOP)
    page.locator("#time-control summary").click()
    page.get_by_role("link", name="6 h").click()
    expect(page.locator("#time-control summary")).to_contain_text("Last 6 h")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    # Also in a row that a frame has replaced.
    first = status(page)
    page.wait_for_function(
        "turn => document.querySelector('#panel-shop-pods td').textContent !== turn",
        arg=f"turn-{first}",
    )
    page.locator("#panel-shop-pods tbody a").first.click()
    expect(page).to_have_url(re.compile(r"/events\?.*range=6h"))


def test_playback_moves_until_it_is_paused(shop: Almenara, page: Page) -> None:
    page.goto(f"{shop.url}{SHOP}?at={format_time(now())}&range=15m")
    first = status(page)
    page.get_by_role("link", name="Play at 1 times the speed").click()
    expect(page.locator("#live-words")).to_have_text("playing")
    expect(page).to_have_url(re.compile("started="))
    page.wait_for_function(
        "turn => Number(document.querySelector('#panel-shop-pods td').textContent.slice(5)) > turn",
        arg=first,
    )
    page.get_by_role("link", name="Pause").click()
    expect(page.locator("#past-bar")).not_to_have_attribute("data-speed", "1")
    assert status(page) > first
    page.get_by_role("link", name="Back to live").click()
    expect(page.locator("#past-bar")).to_have_count(0)


def test_steps_and_changes_are_two_clicks_away(shop: Almenara, page: Page) -> None:
    page.goto(f"{shop.url}{SHOP}?at={format_time(now())}")
    page.get_by_role("link", name="Previous failure").click()
    expect(page.locator("#panel-shop-pods td").first).to_have_text("turn-1")
    page.goto(shop.url + SHOP)
    page.locator("#time-control summary").click()
    page.get_by_role("link", name="What changed").click()
    expect(page.get_by_role("heading", name="What changed")).to_be_visible()
    expect(page.locator("main")).to_contain_text("shop.pod")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_event_of_a_lane_opens_in_the_drawer(shop: Almenara, page: Page) -> None:
    page.goto(shop.url + "/timeline?correlation=story")
    groups = page.locator(".story-lanes a")
    expect(groups.first).to_be_attached()
    page.locator(".timeline .step-body").first.click()
    drawer = page.locator("#drawer")
    expect(drawer).to_be_visible()
    expect(drawer).to_contain_text("shop.turn")
    drawer.get_by_role("link", name="Around this event").click()
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    expect(page.locator(".story-lanes")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
