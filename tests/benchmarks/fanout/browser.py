"""From published to painted in a real browser, and what the page costs it."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from playwright.sync_api import CDPSession, sync_playwright
from scenario import HERE, WARM_UP, Program, Scenario, running

RATE: Final = 1_000.0
WATCH: Final = """
(() => {
  const found = (window.found = []);
  let newest = 0;
  const painted = (stamps) => requestAnimationFrame(() => {
    // A message comes after the frame that the callback belongs to.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { for (const it of stamps) found.push(Date.now() - it); };
    port2.postMessage(0);
  });
  const look = () => {
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
    look();
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  });
})();
"""


class BrowserFigures(msgspec.Struct, kw_only=True):
    """What a page cost a browser, and how late it was."""

    seconds: float
    rate: float
    rows: int
    p50: float
    p99: float
    longest: float
    busy: float
    """Seconds that the main thread worked in each second."""
    heap: list[float]
    """MiB in use after collecting, at even distances."""
    shown: int
    """The most rows that the page ever held."""


def run(folder: Path, seconds: float, samples: int = 6) -> BrowserFigures:
    """Look at `/events` while events come."""
    path = os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium")
    with running(Scenario(server="almenara", clients=1, rate=RATE), folder) as (tested, server):
        publisher = Program(str(HERE / "publisher.py"), str(server.port), str(RATE), "50")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.add_init_script(WATCH)
                page.goto(f"http://127.0.0.1:{tested.port}/events")
                session = page.context.new_cdp_session(page)
                session.send("Performance.enable")
                time.sleep(WARM_UP * 2)
                page.evaluate("window.found.length = 0")
                late: list[float] = []
                heap, shown, busy, took = [], 0, 0.0, 0.0
                for _ in range(samples):
                    before, began = metrics(session)["TaskDuration"], time.monotonic()
                    end = began + seconds / samples
                    while time.monotonic() < end:
                        time.sleep(1)
                        count = "document.querySelectorAll('#event-rows > .event').length"
                        shown = max(shown, page.evaluate(count))
                    busy += metrics(session)["TaskDuration"] - before
                    took += time.monotonic() - began
                    # What we note must not pass for growth of the page.
                    late += page.evaluate("window.found.splice(0)")
                    # Outside the time measured: nobody collects by hand in a browser.
                    session.send("HeapProfiler.collectGarbage")
                    heap.append(metrics(session)["JSHeapUsedSize"] / 2**20)
                browser.close()
        finally:
            publisher.ask("")
            publisher.stop()
    late.sort()
    return BrowserFigures(
        seconds=took, rate=RATE, rows=len(late), p50=late[len(late) // 2] / 1e3,
        p99=late[int(len(late) * 0.99)] / 1e3, longest=late[-1] / 1e3, busy=busy / took,
        heap=heap, shown=shown,
    )  # fmt: skip


def metrics(session: CDPSession) -> dict[str, Any]:
    """Chromium's own figures of the page."""
    return {it["name"]: it["value"] for it in session.send("Performance.getMetrics")["metrics"]}
