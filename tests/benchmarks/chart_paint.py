"""How long a browser takes to draw a chart of a day, and to zoom: `make bench-charts`.

20 series with a sample every 30 seconds of 24 hours, in Chromium without a graphics card. *Drawn*
is the time from the data, decoded, to the last line on the canvas; *painted* to the frame that
shows it; both in the clock of the page. A zoom is a drag with the mouse; *from the mouse* is the
time from the release of its button to the frame, with the request for the samples. *Main thread* is
processor time of the page, which the load of the machine changes less: for the first load that of
the whole page. BENCH_LOADS changes how often each is measured; `--short` measures little. It fails
where a chart has too few points, a zoom loads the page again, or the page reports an error.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.application import Almenara
from support.servers import wait_until

SHORT = "--short" in sys.argv
LOADS = int(os.environ.get("BENCH_LOADS", "2" if SHORT else "15"))
SERIES, STEP = 20, 30
POINTS = 24 * 3600 // STEP
GOAL_MS = 100
PLUGIN = f"""
import almenara, asyncio, math
from almenara.hookspecs import SampleQuery, SeriesPanel
from almenara.signals import Resource, Sample, now

class Load:
    name = "load"

    async def run(self, publish):
        names = [f"pod-{{number:02}}" for number in range({SERIES})]
        await publish([Resource(kind="pod", name=name, status="Running") for name in names])
        first = now() - {POINTS * STEP} * 1_000_000
        for start in range(0, {POINTS}, 100):
            await publish([
                Sample(kind="pod", name=name, metric="cpu",
                       time=first + step * {STEP} * 1_000_000,
                       value=place + math.sin(step / 40 + place) + (step * 7919 % 13) / 20)
                for step in range(start, min(start + 100, {POINTS}))
                for place, name in enumerate(names)
            ])
        await publish([Resource(kind="pod", name="done", status="Running")])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]

@almenara.hookimpl
def almenara_panels():
    return [SeriesPanel(name="cpu", title="CPU",
                        query=SampleQuery(kind="pod", metric="cpu", limit={SERIES}))]
"""
ADDRESS = "/panels/load.cpu?range=24h"
OBSERVE = """
(() => {
  const measured = { released: 0, decoded: 0, drawn: 0, strokes: 0, points: 0, series: 0 };
  window.measured = measured;
  const json = Response.prototype.json;
  Response.prototype.json = async function () {
    const data = await json.call(this);
    if (this.url.includes("/api/charts/")) {
      Object.assign(measured, { decoded: performance.now(), strokes: 0, drawn: 0 });
      measured.series = data.lines.length;
      measured.points = Math.max(0, ...data.lines.map((line) => line.times.length));
    }
    return data;
  };
  const stroke = CanvasRenderingContext2D.prototype.stroke;
  CanvasRenderingContext2D.prototype.stroke = function (...parts) {
    stroke.apply(this, parts);
    measured.drawn = performance.now();
    measured.strokes += 1;
    if (measured.waiting) return;
    measured.waiting = true;
    requestAnimationFrame(() => {
      measured.waiting = false;
      measured.painted = performance.now();
    });
  };
  addEventListener("pointerup", () => (measured.released = performance.now()), true);
  addEventListener("mouseup", () => (measured.released = performance.now()), true);
})()
"""
PAINTED = """
() => new Promise((resolve) => {
  let before = -1;
  const look = () => {
    const { strokes, waiting, decoded } = window.measured;
    if (decoded && strokes > 20 && strokes === before && !waiting) {
      resolve({ ...window.measured });
    } else {
      before = strokes;
      requestAnimationFrame(look);
    }
  };
  requestAnimationFrame(look);
})
"""


def zoom(page: Page) -> None:
    box = page.locator(".u-over").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, y)
    page.mouse.move(box["x"] + box["width"] * 0.6, y)
    page.evaluate("window.measured.decoded = 0")
    page.mouse.up()


def read_busy(cdp: Any) -> float:
    metrics = {
        each["name"]: each["value"] for each in cdp.send("Performance.getMetrics")["metrics"]
    }
    return float(metrics["TaskDuration"])


def measure(browser: Browser, url: str) -> list[dict[str, float]]:
    """Load the chart once and zoom into it; returns the measures of both."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    documents: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: documents.append(request.url) if request.is_navigation_request() else None,
    )
    page.add_init_script(OBSERVE)
    cdp = context.new_cdp_session(page)
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
    results: list[dict[str, Any]] = []
    acts: list[Callable[[], object]] = [lambda: page.goto(url + ADDRESS), lambda: zoom(page)]
    for act in acts:
        before = read_busy(cdp)
        act()
        results.append({**page.evaluate(PAINTED), "busy": (read_busy(cdp) - before) * 1000})
    context.close()
    for each in results:
        if each["series"] != SERIES or each["points"] < 100:
            raise SystemExit(f"the chart has {each['series']} series of {each['points']} points")
    if errors:
        raise SystemExit(errors[0])
    if len(documents) != 1:
        raise SystemExit(f"a zoom loaded the page again: {documents}")
    return [
        {"drawn": each["drawn"] - each["decoded"], "painted": each["painted"] - each["decoded"],
         "all": each["painted"] - each["released"], "points": each["points"],
         "busy": each["busy"]}
        for each in results
    ]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        plugins = Path(folder) / "plugins"
        plugins.mkdir()
        (plugins / "load.py").write_text(PLUGIN)
        with Almenara(
            Path(folder) / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
        ) as almenara:
            wait_until(lambda: "done" in almenara.text("/api/resources?kind=pod"), "samples", 120)
            path = os.environ.get("ALMENARA_CHROMIUM")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            loads = [measure(browser, almenara.url) for _ in range(LOADS)]
            browser.close()
    print(
        f"| {SERIES} series of 24 h | points | drawn, ms | painted, ms | from the mouse, ms |"
        " main thread, ms |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for place, title in enumerate(("first load", "zoom")):
        rows = [load[place] for load in loads]
        middle = {name: median(row[name] for row in rows) for name in rows[0]}
        print(
            f"| {title}, median of {LOADS} | {middle['points']:.0f} | {middle['drawn']:.0f} |"
            f" {middle['painted']:.0f} | {format(middle['all'], '.0f') if place else '-'} |"
            f" {middle['busy']:.0f} |"
        )
    print(f"goal: painted within {GOAL_MS} ms")


if __name__ == "__main__":
    main()
