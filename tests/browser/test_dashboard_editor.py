"""Dashboards made in a real browser: built, moved by keyboard, saved, shared, in conflict."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.signals import Resource, Sample, now

class Load:
    name = "load"

    async def run(self, publish):
        while True:
            await publish([
                Resource(kind="pod", name="web", namespace="shop", status="Running"),
                Sample(kind="pod", name="web", namespace="shop", metric="cpu", value=1.5),
                Sample(kind="pod", name="web", namespace="shop", metric="memory", value=1024.0,
                       unit="By"),
            ])
            await asyncio.sleep(0.5)

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]
"""


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder: Path = tmp_path_factory.mktemp("editor")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(PLUGIN)
    with Almenara(
        folder / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
    ) as running:
        wait_until(lambda: running.get("/api/samples?metric=cpu")["series"], "samples")
        yield running


def build(page: Page, almenara: Almenara, name: str) -> None:
    """Make a dashboard of a panel and a chart, and save it."""
    page.goto(f"{almenara.url}/dashboard-editor")
    page.get_by_label("Title", exact=True).first.fill("Shop")
    page.get_by_label("Name in the address").fill(name)
    page.get_by_label("Panel", exact=True).select_option("failures")
    page.get_by_role("button", name="Add panel").click()
    page.get_by_text("Build a chart of a metric").click()
    builder = page.locator(".editor-build").first
    builder.get_by_label("Metric").fill("cpu")
    builder.get_by_label("Kind").fill("pod")
    builder.get_by_label("Title").fill("CPU of the shop")
    builder.get_by_role("button", name="Add chart").click()
    expect(page.locator(".editor-card")).to_have_count(2)


def test_dashboard_is_built_moved_by_keyboard_and_saved(page: Page, almenara: Almenara) -> None:
    build(page, almenara, "shop")
    second = page.locator(".editor-card").nth(1)
    second.get_by_role("button", name="move with the arrow keys").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".editor-card b").first).to_have_text("CPU of the shop")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".editor-card").first).to_have_attribute("data-width", "7")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/dashboards/shop")
    expect(page.locator("h1")).to_contain_text("Shop")
    section = page.get_by_role("region", name="CPU of the shop")
    expect(section.locator("canvas")).to_be_visible()
    expect(section.locator(".legend").first).to_contain_text("shop/web")
    text = almenara.text("/dashboards/shop/export")
    assert "metric: cpu" in text
    assert "width: 7" in text


def test_panel_is_moved_with_the_mouse(page: Page, almenara: Almenara) -> None:
    build(page, almenara, "by-mouse")
    cards = page.locator(".editor-card")
    cards.nth(1).drag_to(cards.nth(0))
    expect(cards.nth(0).locator("b")).to_have_text("CPU of the shop")


def test_two_editors_get_a_conflict_and_both_versions_stay(
    page: Page, browser: Browser, almenara: Almenara
) -> None:
    build(page, almenara, "shared")
    page.get_by_label("Visible to").select_option("viewer")
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/dashboards/shared")
    editors = [browser.new_context().new_page() for _ in range(2)]
    for editor in editors:
        editor.goto(f"{almenara.url}/dashboard-editor?name=shared")
    for number, editor in enumerate(editors):
        editor.get_by_label("Title", exact=True).first.fill(f"Version of {number}")
    editors[0].get_by_role("button", name="Save").click()
    expect(editors[0].locator("h1")).to_contain_text("Version of 0")
    editors[1].get_by_role("button", name="Save").click()
    expect(editors[1].get_by_role("alert")).to_contain_text("Nothing was saved")
    expect(editors[1].locator("pre")).to_contain_text("Version of 0")
    expect(editors[1].get_by_label("Title", exact=True).first).to_have_value("Version of 1")
    editors[1].get_by_role("button", name="Save").click()
    editors[1].wait_for_url("**/dashboards/shared")
    expect(editors[1].locator("h1")).to_contain_text("Version of 1")
    editors[1].goto(f"{almenara.url}/dashboard-editor?name=shared&version=2")
    expect(editors[1].get_by_label("Title", exact=True).first).to_have_value("Version of 0")
    for editor in editors:
        editor.context.close()


def test_dashboard_is_imported_as_yaml_without_javascript(
    browser: Browser, almenara: Almenara
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{almenara.url}/dashboard-editor")
    page.locator("#yaml").fill("name: plain\ntitle: Plain\npanels: [no-such-panel]\n")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("no-such-panel")
    page.locator("#yaml").fill("dashboards:\n- name: plain\n  title: Plain\n  panels: [numbers]\n")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("h1")).to_contain_text("Plain")
    context.close()


def test_metrics_page_finds_a_metric_and_adds_its_chart(page: Page, almenara: Almenara) -> None:
    page.goto(f"{almenara.url}/explore")
    page.get_by_label("Search").fill("mem shop")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="memory", exact=True).click()
    expect(page.locator("section[data-chart] canvas")).to_be_visible()
    expect(page.locator(".chart-legend")).to_contain_text("1.0 KiB")
    page.get_by_role("link", name="a new dashboard").click()
    expect(page.locator(".editor-card")).to_have_count(1)
    expect(page.locator(".editor-card")).to_contain_text("metric=memory")


def test_table_of_resources_is_built_with_the_columns_of_its_kind(
    page: Page, almenara: Almenara
) -> None:
    page.goto(f"{almenara.url}/dashboard-editor")
    page.get_by_label("Title", exact=True).first.fill("Tables")
    page.get_by_label("Name in the address").fill("tables")
    page.get_by_text("Build a table of resources").click()
    builder = page.locator(".editor-build").nth(1)
    builder.get_by_role("button", name="Add table").click()
    expect(page.get_by_text("Choose a kind first.")).to_be_attached()
    expect(page.locator("#known-resource-kind option[value='pod']")).to_be_attached()
    builder.get_by_label("Kind").fill("pod")
    builder.get_by_label("status", exact=True).check()
    builder.get_by_label("sample.memory", exact=True).check()
    columns = builder.get_by_label("Columns", exact=True).first
    expect(columns).to_have_value("status, sample.memory")
    columns.fill("status, Used=sample.memory:bytes")
    expect(builder.get_by_label("sample.memory", exact=True)).to_be_checked()
    builder.get_by_role("button", name="Add table").click()
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/dashboards/tables")
    table = page.get_by_role("region", name="Table").locator("table")
    expect(table.locator("th").nth(2)).to_have_text("Used")
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(table).to_contain_text("1.0 KiB")


def test_name_of_a_new_dashboard_is_free_and_follows_its_title(
    page: Page, almenara: Almenara
) -> None:
    for name in ("my-dashboard", "my-dashboard-2"):
        page.goto(f"{almenara.url}/dashboard-editor")
        expect(page.get_by_label("Name in the address")).to_have_value(name)
        page.get_by_role("button", name="Save").click()
        page.wait_for_url(f"**/dashboards/{name}")
    page.goto(f"{almenara.url}/dashboard-editor")
    title = page.get_by_label("Title", exact=True).first
    title.fill("Caf\u00e9 orders")
    expect(page.get_by_label("Name in the address")).to_have_value("cafe-orders")
    page.get_by_label("Name in the address").fill("my-dashboard")
    title.fill("Other orders")
    expect(page.get_by_label("Name in the address")).to_have_value("my-dashboard")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").first).to_contain_text(
        "There is already a dashboard my-dashboard, saved by anonymous."
    )


def test_editor_asks_before_it_loses_changes_or_deletes(page: Page, almenara: Almenara) -> None:
    build(page, almenara, "kept")
    kinds: list[str] = []

    def stay(dialog: Dialog) -> None:
        kinds.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.get_by_role("link", name="Cancel").click()
    assert kinds == ["beforeunload"]
    expect(page.locator(".editor-card")).to_have_count(2)
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/dashboards/kept")
    page.goto(f"{almenara.url}/dashboard-editor?name=kept")
    confirm = page.get_by_role("button", name="Delete", exact=True)
    expect(confirm).to_be_hidden()
    page.get_by_text("Delete dashboard").click()
    confirm.click()
    page.wait_for_url("**/dashboards")
    expect(page.get_by_text("kept")).to_have_count(0)


def test_editor_names_the_missing_metric_and_what_a_typed_text_does(
    page: Page, almenara: Almenara
) -> None:
    page.goto(f"{almenara.url}/dashboard-editor")
    page.get_by_text("Build a chart of a metric").click()
    page.get_by_role("button", name="Add chart").click()
    expect(page.get_by_text("Choose a metric first.")).to_be_visible()
    page.locator("#yaml-title").click()
    page.locator("#yaml").press_sequentially(" ")
    expect(page.get_by_text("This text is saved in place of the panels above.")).to_be_visible()
