"""What the Kubernetes pages cost a browser at 5,000 pods in 200 namespaces: `make bench-pages`.

A simulated cluster, of which 500 pods change at 100 changes a second. BENCH_PODS and BENCH_SECONDS
change how much is measured. Prints the table of docs/performance-pages.md. `--short` measures
little. It fails where a page is not live, gets no frames or reports an error.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.application import Almenara
from support.servers import wait_until
from support.simulated_kubernetes import simulated_kubernetes

SHORT = "--short" in sys.argv
PODS = int(os.environ.get("BENCH_PODS", "600" if SHORT else "5000"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "2" if SHORT else "8"))
CHANGING, RATE = 500, 100
KUBERNETES = "/dashboards/kubernetes"
PAGES = (
    ("Workloads", KUBERNETES),
    ("Pods", f"{KUBERNETES}.pods"),
    ("Nodes", f"{KUBERNETES}.nodes"),
    ("by workload", f"{KUBERNETES}?group=workload"),
)
CHURN = f"""
import asyncio, random
import almenara
from almenara.signals import Resource, Severity

STATES = (
    ("Running", Severity.INFO), ("CrashLoopBackOff", Severity.ERROR),
    ("ContainerCreating", Severity.WARN),
)

def pod(number, status, severity):
    return Resource(
        kind="kubernetes.pod", namespace=f"team-{{number % 20 + 1:03}}",
        name=f"churning-{{number:03}}",
        status=status, severity=severity,
        state={{"workload": "Deployment/churning", "node": f"worker-{{number % 50 + 10}}",
               "total": 1, "ready": int(status == "Running"), "cpu_request": 0.25}},
    )

class Churn:
    async def run(self, publish):
        await publish([pod(number, *STATES[0]) for number in range({CHANGING})])
        while True:
            await publish([
                pod(random.randrange({CHANGING}), *random.choice(STATES))
                for _ in range({RATE} // 10)
            ])
            await asyncio.sleep(0.1)

@almenara.hookimpl
def almenara_sources():
    return [Churn()]
"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


def measure_page(browser: Browser, url: str, seconds: int = SECONDS) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    cdp = context.new_cdp_session(page)
    # Processor time of the main thread only, so that the load of the machine does not count.
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
    cdp.send("Network.enable")
    frames: list[int] = []
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def received(event: Any) -> None:
        frames.append(len(event["response"]["payloadData"]))

    cdp.on("Network.webSocketFrameReceived", received)
    page.goto(url, wait_until="commit")
    page.locator('#live[data-state="live"]').wait_for()
    page.wait_for_timeout(500 if SHORT else 2000)
    painted = float(page.evaluate(PAINTED))
    frames.clear()
    before = read_metrics(cdp)
    page.wait_for_timeout(seconds * 1000)
    after = read_metrics(cdp)
    cost = {
        "painted": painted,
        "busy": (after["TaskDuration"] - before["TaskDuration"]) / seconds * 1000,
        "nodes": float(page.evaluate("document.querySelectorAll('*').length")),
        "frames": len(frames) / seconds,
        "bytes": sum(frames) / seconds / 1024,
    }
    context.close()
    if errors:
        raise SystemExit(f"{url}: {errors[0]}")
    if not frames:
        raise SystemExit(f"{url} got no frame in {seconds} s")
    return cost


def read_metrics(cdp: Any) -> dict[str, float]:
    return {
        metric["name"]: metric["value"] for metric in cdp.send("Performance.getMetrics")["metrics"]
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plugins = Path(folder) / "plugins"
        plugins.mkdir()
        (plugins / "churn.py").write_text(CHURN)
        with (
            simulated_kubernetes(Path(folder) / "kubernetes", PODS - CHANGING) as settings,
            Almenara(
                Path(folder) / "almenara", "nats://127.0.0.1:1", plugins_dir=str(plugins),
                plugins__disabled="[nats]", **settings,
            ) as almenara,
        ):  # fmt: skip
            last = f"{KUBERNETES}.pods?text=churning-{CHANGING - 1}"
            wait_until(lambda: f"churning-{CHANGING - 1}</a>" in almenara.text(last), "pods", 90)
            path = os.environ.get("ALMENARA_CHROMIUM")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
                print("| page | painted, ms | main thread, ms/s | elements | frames/s | KiB/s |")
                print("|---|---:|---:|---:|---:|---:|")
                for title, address in PAGES:
                    cost = measure_page(browser, almenara.url + address)
                    print(
                        f"| {title} | {cost['painted']:.0f} | {cost['busy']:.0f} |"
                        f" {cost['nodes']:,.0f} | {cost['frames']:.1f} | {cost['bytes']:.0f} |",
                        flush=True,
                    )
                browser.close()


if __name__ == "__main__":
    main()
