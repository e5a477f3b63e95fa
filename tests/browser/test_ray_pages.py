"""The Ray page with a simulated cluster, in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.application import Almenara
from support.servers import wait_until
from support.simulated_ray import simulated_ray


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder: Path = tmp_path_factory.mktemp("ray")
    with (
        simulated_ray() as settings,
        Almenara(folder, "nats://127.0.0.1:1", plugins__disabled="[nats]", **settings) as almenara,
    ):
        wait_until(lambda: "ray-run" in almenara.text("/dashboards/ray"), "a timeline of jobs")
        yield almenara


def test_span_of_the_timeline_changes_on_the_page_with_its_filters(
    almenara: Almenara, page: Page
) -> None:
    page.goto(almenara.url + "/dashboards/ray?status=SUCCEEDED")
    timeline = page.locator("#panel-ray-timeline-section")
    timeline.get_by_role("link", name="3h", exact=True).click()
    expect(page).to_have_url(re.compile(r"/dashboards/ray\?status=SUCCEEDED&span=3h(#|$)"))
    expect(timeline.locator("a[aria-current]")).to_have_text("3h")
    expect(timeline).to_be_in_viewport()


def test_failed_runs_of_a_long_entrypoint_are_visible(almenara: Almenara, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(almenara.url + "/dashboards/ray")
    lanes = page.locator(".ray-lane-name")
    expect(lanes.locator(".bad").first).to_be_visible()
    assert lanes.evaluate_all(
        "lanes => lanes.every(lane => [...lane.children].every(child =>"
        " child.getBoundingClientRect().right <= lane.getBoundingClientRect().right + 1))"
    )
