"""Saved filters of the Events page in a real browser: saved, found again, changed, in conflict."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from support.application import Almenara


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    with Almenara(tmp_path_factory.mktemp("filters"), plugins__disabled="[nats]") as running:
        yield running


def test_filter_is_saved_used_and_changed_by_two(
    page: Page, browser: Browser, almenara: Almenara
) -> None:
    page.goto(f"{almenara.url}/events?severity=ERROR&text=plan")
    page.get_by_role("link", name="Save this filter").click()
    expect(page.get_by_label("Search text")).to_have_value("plan")
    page.get_by_label("Name").fill("Failed plans")
    page.get_by_label("Visible to").select_option("viewer")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/events?severity=ERROR&text=plan")
    saved = page.get_by_role("navigation", name="Saved filters")
    expect(saved.get_by_role("link", name="Failed plans")).to_have_attribute("aria-current", "true")
    page.goto(f"{almenara.url}/events")
    page.get_by_role("link", name="Failed plans", exact=True).click()
    page.wait_for_url("**/events?severity=ERROR&text=plan")

    page.get_by_role("link", name="All saved filters").click()
    page.wait_for_url("**/event-filters")
    other = browser.new_context().new_page()
    other.goto(page.url)
    for number, editor in enumerate((page, other)):
        editor.get_by_role("link", name="Edit Failed plans").click()
        editor.get_by_label("Search text").fill(f"plan{number}")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/events?severity=ERROR&text=plan0")
    other.get_by_role("button", name="Save").click()
    expect(other.get_by_role("alert")).to_contain_text("Nothing was saved")
    expect(other.locator(".facts")).to_contain_text("plan0")
    expect(other.get_by_label("Search text")).to_have_value("plan1")
    other.get_by_role("button", name="Save").click()
    other.wait_for_url("**/events?severity=ERROR&text=plan1")
    other.get_by_role("link", name="All saved filters").click()
    other.get_by_role("link", name="Edit Failed plans").click()
    other.get_by_role("link", name="Version 2").click()
    expect(other.get_by_label("Search text")).to_have_value("plan0")
    other.get_by_text("Delete filter").click()
    other.get_by_role("button", name="Delete", exact=True).click()
    expect(other.get_by_text("No saved filters yet")).to_be_visible()
    other.context.close()
