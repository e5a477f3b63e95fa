"""The time from publishing to painting in a real browser, and what the page costs it."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from playwright.sync_api import CDPSession, sync_playwright
from scenario import HERE, WARM_UP, Program, Scenario, run_server

RATE: Final = 1_000.0
WATCH: Final = """
(() => {
  const delays = (window.delays = []);
  let newest = 0;
  const painted = (stamps) => requestAnimationFrame(() => {
    // A message comes after the frame that the callback belongs to.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { for (const stamp of stamps) delays.push(Date.now() - stamp); };
    port2.postMessage(0);
  });
  const scan = () => {
    const stamps = [];
    let seen = newest;
    for (const row of document.querySelectorAll("#event-rows > .event")) {
      const sequence = Number(row.dataset.sequence);
      if (sequence <= newest) continue;
      seen = Math.max(seen, sequence);
      const stamp = /stamp=(\\d{16})/.exec(row.textContent);
      if (stamp) stamps.push(Number(stamp[1]) / 1000);
    }
    newest = seen;
    if (stamps.length) painted(stamps);
  };
  document.addEventListener("DOMContentLoaded", () => {
    scan();
    new MutationObserver(scan).observe(document.body, { childList: true, subtree: true });
  });
})();
"""


class BrowserFigures(msgspec.Struct, kw_only=True):
    """What a page costs a browser, and how late it is."""

    seconds: float
    rate: float
    rows: int
    p50: float
    p99: float
    longest: float
    busy: float
    """Seconds that the main thread worked in each second."""
    heap: list[float]
    """MiB in use after garbage collection, sampled at equal intervals."""
    shown: int
    """The most rows that the page ever had."""


def run(folder: Path, seconds: float, samples: int = 6) -> BrowserFigures:
    """Open `/events` while events arrive."""
    path = os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium")
    with run_server(Scenario(server="almenara", clients=1, rate=RATE), folder) as (
        server_under_test,
        server,
    ):
        publisher = Program(str(HERE / "publisher.py"), str(server.port), str(RATE), "50")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.add_init_script(WATCH)
                page.goto(f"http://127.0.0.1:{server_under_test.port}/events")
                session = page.context.new_cdp_session(page)
                session.send("Performance.enable")
                time.sleep(WARM_UP * 2)
                page.evaluate("window.delays.length = 0")
                late: list[float] = []
                heap, shown, busy, took = [], 0, 0.0, 0.0
                for _ in range(samples):
                    before, started = read_metrics(session)["TaskDuration"], time.monotonic()
                    end = started + seconds / samples
                    while time.monotonic() < end:
                        time.sleep(1)
                        count = "document.querySelectorAll('#event-rows > .event').length"
                        shown = max(shown, page.evaluate(count))
                    busy += read_metrics(session)["TaskDuration"] - before
                    took += time.monotonic() - started
                    # The recorded delays must not count as growth of the page.
                    late += page.evaluate("window.delays.splice(0)")
                    # Not part of the measured time: browsers collect on their own.
                    session.send("HeapProfiler.collectGarbage")
                    heap.append(read_metrics(session)["JSHeapUsedSize"] / 2**20)
                browser.close()
        finally:
            publisher.request("")
            publisher.stop()
    late.sort()
    return BrowserFigures(
        seconds=took, rate=RATE, rows=len(late), p50=late[len(late) // 2] / 1e3,
        p99=late[int(len(late) * 0.99)] / 1e3, longest=late[-1] / 1e3, busy=busy / took,
        heap=heap, shown=shown,
    )  # fmt: skip


def read_metrics(session: CDPSession) -> dict[str, Any]:
    """Chromium's own metrics of the page."""
    return {row["name"]: row["value"] for row in session.send("Performance.getMetrics")["metrics"]}
