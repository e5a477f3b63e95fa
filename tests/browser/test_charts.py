"""Charts in a real browser: live points, zoom, keyboard, legend, and pages without JavaScript."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio, itertools, math
from almenara.hookspecs import Level, SampleQuery, SeriesPanel
from almenara.signals import Resource, Sample, Severity, now

PODS = ("web-1", "web-2", "db")

def samples(moment, step):
    for place, pod in enumerate(PODS):
        yield Sample(kind="pod", name=pod, namespace="shop", metric="cpu", time=moment,
                     value=1 + place + math.sin(step / 9))
        yield Sample(kind="pod", name=pod, namespace="shop", metric="memory", time=moment,
                     value=2.0**30 * (1 + place), unit="By")

class Load:
    name = "load"

    async def run(self, publish):
        await publish([Resource(kind="pod", name=pod, namespace="shop", status="Running",
                                state={"limit": 6.0 * 2**30}) for pod in PODS])
        start = now() // 1_000_000 * 1_000_000 - 3_000_000_000
        # A gap of four minutes, and then live samples.
        past = [each for step in range(300) if not 100 <= step < 124
                for each in samples(start + step * 10_000_000, step)]
        await publish(past)
        # The middle part of three starts after half of the time.
        await publish([
            Sample(kind="part", name=name, metric="load", value=10.0,
                   time=start + step * 10_000_000)
            for step in range(300) for name in ("a", "b", "c") if name != "b" or step >= 150
        ])
        for step in itertools.count(300):
            await asyncio.sleep(0.5)
            await publish([*samples(now(), step)])

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]

@almenara.hookimpl
def almenara_panels():
    return [
        SeriesPanel(name="cpu", title="CPU", query=SampleQuery(kind="pod", metric="cpu"),
                    levels=[Level(title="high", value=3.5, severity=Severity.WARN)]),
        SeriesPanel(name="memory", title="Memory", format="bytes", style="stacked",
                    query=SampleQuery(kind="pod", metric="memory"),
                    levels=[Level(title="limit", path="state.limit")]),
        SeriesPanel(name="bars", title="Bars", style="bars", step=300,
                    query=SampleQuery(kind="pod", metric="cpu", combine="max"), combined=True),
        SeriesPanel(name="checks", title="Checks", style="bars", step=300, format="number",
                    query=SampleQuery(kind="pod", metric="cpu"),
                    levels=[Level(title="bad below", value=1.5, severity=Severity.ERROR,
                                  colors="below")]),
        SeriesPanel(name="late", title="Late", style="stacked",
                    query=SampleQuery(kind="part", metric="load")),
        SeriesPanel(name="heat", title="Heat", style="heatmap", step=300,
                    query=SampleQuery(kind="pod", metric="cpu"),
                    levels=[Level(title="low", value=2.0, severity=Severity.ERROR)]),
    ]
"""
PAGE = "/dashboards/load"


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder: Path = tmp_path_factory.mktemp("charts")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(PLUGIN)
    with Almenara(
        folder / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
    ) as running:
        wait_until(lambda: len(running.get("/api/samples?metric=cpu")["series"]) == 3, "samples")
        yield running


@pytest.fixture
def problems(page: Page) -> Iterator[list[str]]:
    """What the browser reports: violations of the security policy are errors there."""
    texts: list[str] = []
    page.on("console", lambda message: texts.append(message.text) if message.type == "error" else 0)
    page.on("pageerror", lambda error: texts.append(str(error)))
    yield texts
    assert texts == []


def chart_of(page: Page, name: str) -> Locator:
    return page.locator(f"#panel-load-{name}-section")


def open_charts(page: Page, almenara: Almenara, address: str = PAGE) -> None:
    page.goto(almenara.url + address)
    for name in ("cpu", "memory", "bars"):
        expect(chart_of(page, name).locator("canvas")).to_be_visible()


def read_range(page: Page) -> dict[str, str]:
    text: dict[str, str] = page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
    return text


def drag(page: Page, name: str, start: float, end: float) -> None:
    plot = chart_of(page, name).locator(".u-over")
    # Waits until it does not move any more, as it does while other charts are drawn.
    plot.hover()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * start, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (start + end) / 2, box["y"] + 50)
    page.mouse.move(box["x"] + box["width"] * end, box["y"] + 60)
    page.mouse.up()
    # Away from the chart, so that its legend is not at a crosshair.
    page.mouse.move(2, 2)


def test_charts_replace_the_picture_and_show_stored_samples(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    cpu = chart_of(page, "cpu")
    expect(cpu.locator(".chart-legend li")).to_have_count(3)
    expect(cpu.locator(".plot svg")).to_be_hidden()
    cpu.locator("summary").click()
    # More than what memory has: the samples of the store.
    page.wait_for_function(
        "document.querySelectorAll('#panel-load-cpu-section tbody tr').length > 250"
    )
    gaps = cpu.locator("tbody td").filter(has_text=re.compile("^\u2013$"))
    expect(gaps).to_have_count(3)


def test_live_chart_continues_with_new_samples(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    cpu = chart_of(page, "cpu")
    cpu.locator("summary").click()
    newest = cpu.locator("tbody tr th").first
    before = newest.inner_text()
    # A step of an hour is six seconds.
    expect(newest).not_to_have_text(before, timeout=30_000)
    # Frames bring the samples: no request does.
    assert [url for url in requests if "/api/charts" in url] == []
    moments = cpu.locator("tbody tr th").all_inner_texts()
    assert moments == sorted(moments, reverse=True)
    assert len(moments) == len(set(moments))


def test_drag_zooms_all_charts_and_back_returns(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    page.evaluate("window.isSamePage = true")
    clock = chart_of(page, "memory").locator(".chart-time")
    expect(clock).to_contain_text("\u2013")
    before = clock.inner_text()
    drag(page, "cpu", 0.6, 0.8)
    expect(page.locator(".zoomed")).to_be_visible()
    assert set(read_range(page)) == {"since", "until"}
    # Each chart loads its samples by itself.
    expect(clock).not_to_have_text(before)
    drawn = clock.inner_text()
    expect(chart_of(page, "cpu").locator(".chart-time")).to_have_text(drawn)
    assert page.evaluate("window.isSamePage")
    changes = page.locator(".zoomed").get_by_role("link", name="What changed")
    zoomed = read_range(page)
    assert changes.get_attribute("href") == "/changes?" + urlencode(zoomed)
    page.get_by_role("button", name="Show the range before").click()
    expect(page.locator(".zoomed")).to_be_hidden()
    assert "until" not in read_range(page)
    expect(clock).not_to_have_text(drawn)
    page.go_forward()
    expect(page.locator(".zoomed")).to_be_visible()
    assert read_range(page) == zoomed
    expect(clock).to_have_text(drawn)
    page.go_back()
    expect(page.locator(".zoomed")).to_be_hidden()
    assert page.evaluate("window.isSamePage")


def test_keyboard_reads_values_and_zooms(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    cpu = chart_of(page, "cpu")
    cpu.locator(".chart-plot").focus()
    page.keyboard.press("Home")
    spoken = cpu.locator("[aria-live]")
    expect(spoken).to_contain_text("shop/db")
    first = spoken.inner_text()
    page.keyboard.press("ArrowRight")
    expect(spoken).not_to_have_text(first)
    for _ in range(3):
        page.keyboard.press("Shift+PageDown")
    page.keyboard.press("Enter")
    expect(page.locator(".zoomed")).to_be_visible()
    assert set(read_range(page)) == {"since", "until"}


def test_crosshair_is_shared_by_the_charts_of_a_page(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    drag(page, "cpu", 0.2, 0.5)
    expect(page.locator(".zoomed")).to_be_visible()
    cpu, memory = chart_of(page, "cpu"), chart_of(page, "memory")
    expect(cpu.locator(".chart-time")).to_contain_text("\u2013")
    box = cpu.locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    page.mouse.move(box["x"] + box["width"] / 2 + 2, box["y"] + 30)
    expect(memory.locator(".chart-time")).not_to_contain_text("\u2013 2")
    expect(memory.locator(".chart-time")).to_have_text(cpu.locator(".chart-time").inner_text())


def test_legend_isolates_a_line_and_shows_all_again(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    legend = chart_of(page, "cpu").locator(".chart-legend button")
    legend.nth(1).click()
    expect(legend.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(chart_of(page, "cpu").locator(".chart-legend button.off")).to_have_count(2)
    legend.nth(1).click()
    expect(chart_of(page, "cpu").locator(".chart-legend button.off")).to_have_count(0)


def test_log_scale_is_a_choice_of_the_viewer(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    button = chart_of(page, "cpu").get_by_role("button", name="Log scale")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(chart_of(page, "cpu").locator("canvas")).to_be_visible()


def test_heat_map_colors_each_step_by_its_level(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    heat = chart_of(page, "heat")
    heat.locator("summary").click()
    # A row for each of an hour's steps, a column for each pod.
    expect(heat.locator("tbody tr").first.locator("td")).to_have_count(3)
    count_pixels = """canvas => {
      const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let red = 0, green = 0;
      for (let at = 0; at < data.length; at += 4) {
        if (data[at] > 1.5 * data[at + 1]) red += 1;
        if (data[at + 1] > 1.2 * data[at]) green += 1;
      }
      return [red, green];
    }"""
    red, green = heat.locator("canvas").first.evaluate(count_pixels)
    # One of the pods stays below the level, and one above it.
    assert min(red, green) > 1_000


def test_stacked_areas_have_no_hole_where_a_line_starts_late(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    late = chart_of(page, "late")
    late.scroll_into_view_if_needed()
    expect(late.locator(".chart-legend li")).to_have_count(3)
    # Columns of times, a line that starts late, one with a pause, and one that ends.
    stacked = page.evaluate(
        """almenaraLines.stack([
          [0, 10, 20, 30, 40, 50], [1, 1, 1, 1, 1, null], [undefined, undefined, 2, null, 2, null],
          [4, 4, undefined, 4, undefined, undefined],
        ], [15, 15, 15])"""
    )
    assert stacked[1:] == [
        [1, 1, 1, 1, 1, None], [1, 1, 3, 1, 3, None], [5, 5, 7, 5, 7, None],
    ]  # fmt: skip
    # The table shows what has no value.
    late.locator("summary").click()
    oldest = late.locator("tbody tr").last.locator("td")
    expect(oldest).to_have_text(["10", "\u2013", "10"])


def test_bars_of_several_lines_have_a_row_each(
    page: Page, almenara: Almenara, problems: list[str]
) -> None:
    open_charts(page, almenara)
    checks = chart_of(page, "checks")
    checks.scroll_into_view_if_needed()
    expect(checks.locator(".chart-legend li")).to_have_text([
        re.compile("^shop/db"), re.compile("^shop/web-1"), re.compile("^shop/web-2"),
        "bad below 1.5",
    ])  # fmt: skip
    height = "element => element.clientHeight"
    assert checks.locator(".chart-plot").evaluate(height) == 3 * 28 + 36
    # One alone has the axis of its values.
    checks.locator(".chart-legend button").first.click()
    expect(checks.get_by_role("button", name="Log scale")).to_be_visible()
    # What the pointer is at is the step that it is in, up to its end.
    box = checks.locator(".u-over").bounding_box()
    assert box is not None
    clock = checks.locator(".chart-time")
    texts = set()
    checks.locator(".chart-plot").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    first = clock.inner_text()
    width = box["width"] * 300 / 3600
    left = float(
        checks.locator(".u-cursor-x").evaluate(
            "line => new DOMMatrix(getComputedStyle(line).transform).e"
        )
    )
    for share in (0.1, 0.5, 0.9):
        page.mouse.move(box["x"] + left + width * share, box["y"] + 20)
        texts.add(clock.inner_text())
    assert texts == {first}


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_charts_fit_a_phone(browser: Browser, almenara: Almenara, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    page.goto(almenara.url + PAGE)
    expect(chart_of(page, "cpu").locator("canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_picture_of_the_server_stays_without_javascript(
    browser: Browser, almenara: Almenara
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(almenara.url + PAGE)
    expect(chart_of(page, "cpu").locator(".plot svg")).to_be_visible()
    expect(chart_of(page, "cpu").locator(".legend")).to_contain_text("shop/web-1")
    context.close()
