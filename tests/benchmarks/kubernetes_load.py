"""5,000 pods in 200 namespaces of a real API server: `make bench-kubernetes`.

BENCH_PODS, BENCH_NAMESPACES, BENCH_RATE and BENCH_SECONDS make it smaller or longer.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import websockets

sys.path.insert(0, str(Path(__file__).parents[1]))

from apiserver import ApiServer
from app import Almenara
from servers import wait_until

PODS = int(os.environ.get("BENCH_PODS", "5000"))
NAMESPACES = int(os.environ.get("BENCH_NAMESPACES", "200"))
RATE = int(os.environ.get("BENCH_RATE", "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "20"))
IDLE = 15.0
PROBES = 10
MIB = 1024


class Vitals:
    """Resident memory and CPU time of a process."""

    def __init__(self, pid: int) -> None:
        self.folder = Path(f"/proc/{pid}")

    @property
    def resident(self) -> float:
        status = (self.folder / "status").read_text()
        return next(int(it.split()[1]) for it in status.splitlines() if "VmRSS" in it) / MIB

    @property
    def seconds(self) -> float:
        fields = (self.folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(server: ApiServer) -> list[dict[str, object]]:
    names = [f"ns-{number:03}" for number in range(NAMESPACES)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(server.namespace, names))
        return list(
            pool.map(
                lambda number: server.pod(names[number % NAMESPACES], f"pod-{number:05}"),
                range(PODS),
            )
        )


def change(server: ApiServer, pod: dict[str, object], reason: str) -> float:
    """Change the status of a pod; when the API server had answered."""
    server.patch_status(pod, {"phase": "Failed", "reason": reason})
    return time.time()


async def churn(server: ApiServer, pods: list[dict[str, object]]) -> float:
    """Change pods at the rate; how many a second it was."""
    loop, done, began = asyncio.get_running_loop(), 0, time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        pending = []
        for number in range(RATE * SECONDS):
            await asyncio.sleep(max(began + number / RATE - time.monotonic(), 0))
            pod = random.choice(pods[PROBES:])
            pending.append(loop.run_in_executor(pool, change, server, pod, f"Reason{number}"))
            done += 1
        await asyncio.gather(*pending)
    return done / (time.monotonic() - began)


async def frames(
    server: ApiServer, almenara: Almenara, pods: list[dict[str, object]], ended: asyncio.Event
) -> list[float]:
    """Milliseconds from the answer to a change until a frame at a browser's socket shows it."""
    took = []
    query = "?type=kubernetes.*&text=Probe"
    panel = os.environ.get("BENCH_PANEL", "events")
    address = f"ws://127.0.0.1:{almenara.port}/live?panel={panel}"
    async with websockets.connect(address + query.replace("?", "&"), origin=almenara.url) as socket:
        number = 0
        while not ended.is_set():
            word = f"Probe{number}x"
            sent = await asyncio.to_thread(change, server, pods[number % PROBES], word)
            try:
                async with asyncio.timeout(3):
                    while word not in str(await socket.recv()):
                        pass
                took.append((time.time() - sent) * 1000)
            except TimeoutError:
                took.append(3000.0)
            number += 1
            await asyncio.sleep(0.1)
    return sorted(took)


def agrees(server: ApiServer, almenara: Almenara) -> bool:
    listed = {
        (it["metadata"]["namespace"], it["metadata"]["name"]): it["status"].get("reason")
        or it["status"]["phase"]
        for it in server.send("GET", "/api/v1/pods")["items"]
    }
    told = {
        (it["namespace"], it["name"]): it["status"]
        for it in almenara.get("/api/resources?kind=kubernetes.pod&limit=100000")["items"]
        if not it.get("gone")
    }
    return told == listed


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder) / "api") as server:
        began = time.monotonic()
        pods = fill(server)
        print(f"filled {PODS:,} pods in {time.monotonic() - began:.0f} s", flush=True)
        clusters = json.dumps([{"kubeconfig": str(server.admin_kubeconfig)}])
        more = {"plugins__kubernetes__clusters": clusters}
        with Almenara(Path(folder) / "almenara", "nats://127.0.0.1:9", **more) as almenara:
            assert almenara.process is not None
            vitals = Vitals(almenara.process.pid)
            began = time.monotonic()
            wait_until(lambda: agrees(server, almenara), "all pods", 120)
            print(f"first agreement after {time.monotonic() - began:.1f} s", flush=True)
            time.sleep(5)
            before, began = vitals.seconds, time.monotonic()
            time.sleep(IDLE)
            share = (vitals.seconds - before) / (time.monotonic() - began)
            print(
                f"idle: {vitals.resident:.0f} MiB resident (at most 200),"
                f" {share:.1%} of a core (at most 3 %)", flush=True,
            )  # fmt: skip
            before, began = vitals.seconds, time.monotonic()
            rate, took = asyncio.run(load(server, almenara, pods))
            share = (vitals.seconds - before) / (time.monotonic() - began)
            began = time.monotonic()
            wait_until(lambda: agrees(server, almenara), "the same state as a fresh list", 60)
            print(
                f"{rate:.0f} changes/s for {SECONDS} s: {vitals.resident:.0f} MiB, {share:.0%} of a"
                f" core; equal to a fresh list {time.monotonic() - began:.1f} s later", flush=True,
            )  # fmt: skip
            if took:
                print(
                    f"change to frame, {len(took)} of them: median {took[len(took) // 2]:.0f} ms,"
                    f" p99 {took[int(len(took) * 0.99)]:.0f} ms (at most 300)", flush=True,
                )  # fmt: skip


async def load(
    server: ApiServer, almenara: Almenara, pods: list[dict[str, object]]
) -> tuple[float, list[float]]:
    ended = asyncio.Event()
    watching = asyncio.create_task(frames(server, almenara, pods, ended))
    rate = await churn(server, pods)
    ended.set()
    return rate, await watching


if __name__ == "__main__":
    main()
