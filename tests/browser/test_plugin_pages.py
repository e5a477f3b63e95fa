"""Pages about one thing, and logs, in a real browser on a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import asyncio, itertools
import almenara
from almenara.hookspecs import (
    Column,
    DetailPanel,
    EventQuery,
    EventsPanel,
    Line,
    LogPanel,
    LogQuery,
    Page,
    ResourceQuery,
    TablePanel,
)
from almenara.signals import Event, Resource, now

class Jobs:
    async def run(self, publish):
        for turn in itertools.count():
            await publish([
                Resource(kind="job", namespace="team", name=it, status=f"turn {turn}")
                for it in ("alpha", "beta")
            ])
            await publish([Event(id=f"{now()}", source="jobs", type="turn.taken", time=now())])
            await asyncio.sleep(0.2)

class Log:
    name = "log"
    async def lines(self, filters):
        for number in itertools.count():
            text = f"{filters.get('name')} says {number} <script>window.pwned=1</script>"
            yield [Line(text=text, source="app")]
            await asyncio.sleep(0.02)

@almenara.hookimpl
def almenara_sources():
    return [Jobs()]

@almenara.hookimpl
def almenara_log_streams():
    return [Log()]

@almenara.hookimpl
def almenara_panels():
    state = [Column(title="Job", path="name"), Column(title="State", path="status")]
    return [
        TablePanel(name="jobs", title="Jobs", query=ResourceQuery(kind="job"),
              columns=state, link="job"),
        DetailPanel(name="state", title="State", query=ResourceQuery(kind="job"),
              columns=state, filters=["namespace", "name"]),
        LogPanel(name="log", title="Log", query=LogQuery(stream="log", limit=30),
              filters=["namespace", "name", "text"], width=12),
        EventsPanel(name="changes", title="Changes", query=EventQuery(), width=6, height=2),
    ]

@almenara.hookimpl
def almenara_pages():
    return [Page(name="job", title="Job", panels=["state", "log"], filters=["text"])]
"""


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Almenara]:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "jobs.py").write_text(PLUGIN)
    almenara = Almenara(
        tmp_path / "almenara", "nats://127.0.0.1:1", plugins_dir=str(plugins),
        plugins__disabled="[nats]",
    )  # fmt: skip
    almenara.start()
    yield almenara
    almenara.stop()


def test_row_links_to_a_live_page_with_log(watching: Almenara, page: Page) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda each: problems.append(each.text) if each.type == "error" else None)
    page.goto(watching.url + "/dashboards/jobs")
    expect(page.locator("#panel-jobs-log")).to_have_count(0)
    page.get_by_role("link", name="beta").click()
    expect(page.locator("h1")).to_have_text("Job team / beta")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    expect(page.locator("#panel-jobs-state")).not_to_contain_text("alpha")
    before = page.locator("#panel-jobs-state dd").nth(1).inner_text()
    expect(page.locator("#panel-jobs-state dd").nth(1)).not_to_have_text(before)

    lines = page.locator("#panel-jobs-log-lines li")
    expect(lines.first).to_contain_text("beta says")

    def full() -> bool:
        return lines.count() == 30

    wait_until(full, "a full log")
    numbers = page.eval_on_selector_all(
        "#panel-jobs-log-lines .text",
        "lines => lines.map(line => Number(line.textContent.split(' ')[2]))",
    )
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert page.evaluate("window.pwned") is None
    # The newest line stays in sight.
    assert page.locator(".log").evaluate("box => Math.abs(box.scrollTop) < 5")

    page.get_by_label("Text").fill("says 1")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(
        watching.url + "/dashboards/jobs.job?text=says+1&namespace=team&name=beta"
    )
    expect(page.locator(".log-state")).to_contain_text("match")
    assert problems == []


def test_resource_page_works_without_scripts(watching: Almenara, page: Page) -> None:
    context = page.context.browser.new_context(java_script_enabled=False)  # type: ignore[union-attr]
    plain = context.new_page()
    wait_until(lambda: "beta" in str(watching.get("/api/resources")), "the jobs")
    plain.goto(watching.url + "/dashboards/jobs.job?namespace=team&name=beta&unknown=1")
    assert plain.url.endswith("?namespace=team&name=beta")
    expect(plain.locator("#panel-jobs-state")).to_contain_text("turn")
    expect(plain.locator("#panel-jobs-log-lines li").first).to_contain_text("beta says")
    context.close()


def test_rows_of_an_events_panel_with_a_height_are_not_clipped(
    watching: Almenara, page: Page
) -> None:
    page.goto(watching.url + "/dashboards/jobs")
    rows = page.locator("#panel-jobs-changes .event")
    wait_until(lambda: rows.count() > 12, "more rows than the panel is high")
    box = page.locator("#panel-jobs-changes").evaluate(
        "panel => { const row = panel.querySelector('.event').getBoundingClientRect(),"
        " box = panel.getBoundingClientRect();"
        " return { left: row.left - box.left, right: box.left + panel.clientWidth - row.right,"
        " sideways: panel.scrollWidth - panel.clientWidth, below: panel.scrollHeight -"
        " panel.clientHeight }; }"
    )
    assert box["left"] >= 0
    assert box["right"] >= 0
    assert box["sideways"] == 0
    assert box["below"] > 0


def test_column_header_sorts_the_table_on_its_page(watching: Almenara, page: Page) -> None:
    page.goto(watching.url + "/dashboards/jobs")
    names = page.locator("#panel-jobs-jobs tbody th")
    expect(names).to_have_text(["alpha", "beta"])
    header = page.locator("#panel-jobs-jobs th a.sort").first
    header.click()
    expect(page).to_have_url(watching.url + "/dashboards/jobs?sort=name")
    header.click()
    expect(page).to_have_url(watching.url + "/dashboards/jobs?sort=-name")
    expect(names).to_have_text(["beta", "alpha"])
    expect(page.locator("#panel-jobs-changes .event").first).to_be_visible()
