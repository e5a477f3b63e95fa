"""5,000 pods in 200 namespaces of a real API server: `make bench-kubernetes`.

BENCH_PODS, BENCH_NAMESPACES, BENCH_RATE and BENCH_SECONDS make it smaller or longer; BENCH_FILL=120
first has so many rounds of usage measured, one a second, so that the memory of samples is full.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import websockets

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.api_server import ApiServer
from support.application import Almenara
from support.metrics_server import MetricsServer
from support.servers import wait_until

PODS = int(os.environ.get("BENCH_PODS", "5000"))
NAMESPACES = int(os.environ.get("BENCH_NAMESPACES", "200"))
NODES = 100
RATE = int(os.environ.get("BENCH_RATE", "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "30"))
FILL = int(os.environ.get("BENCH_FILL", "0"))
IDLE = 45.0
"""Seconds: three rounds of usage."""
POLLED = 5.0
"""Seconds between two polls of what we compare with."""
POLLS = 3
MIB = 1024
LOOKED_AT = 4
"""Namespaces whose pods somebody looks at; a sixth of all changes is in them."""
PROBE = re.compile(r"Probe\d+x")
SETTLED = 5.0
"""Seconds after the last change in which its frame may still come."""
OTHERS: Sequence[Mapping[str, Any]] = (
    {"phase": "Failed", "reason": "Evicted"},
    {"phase": "Pending", "reason": None},
    {"phase": "Running", "reason": None},
)


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


class Moving(MetricsServer):
    """Pods and nodes that use a little more or less whenever somebody asks, a while later."""

    step = timedelta(seconds=15)

    def _list(self, kind: str, items: list[Any]) -> Any:
        if kind == "PodMetricsList":
            self.timestamp = (self.timestamp or datetime.now(UTC)) + self.step
        for it in items:
            for used in [it] if "usage" in it else it["containers"]:
                used["usage"] = {
                    "cpu": f"{random.randrange(10**9)}n",
                    "memory": f"{random.randrange(10**6)}Ki",
                }
        return super()._list(kind, items)


def owned(kind: str, owner: Mapping[str, Any]) -> dict[str, Any]:
    name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid}
    return {"ownerReferences": [{**reference, "controller": True}]}


def workload(server: ApiServer, namespace: str) -> dict[str, Any]:
    """A Deployment with its ReplicaSet; what the pods of the set have in their metadata."""
    server.namespace(namespace)
    spec = {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "example.org/main:1.2"}]},
        },
    }
    made = {"apiVersion": "apps/v1", "spec": {**spec, "replicas": PODS // NAMESPACES}}
    deployment = server.create(
        {**made, "kind": "Deployment", "metadata": {"namespace": namespace, "name": "web"}}
    )
    owner = owned("Deployment", deployment)
    of_set = {"namespace": namespace, "name": "web-7d9c", **owner}
    replica_set = server.create({**made, "kind": "ReplicaSet", "metadata": of_set})
    return {**owned("ReplicaSet", replica_set), "labels": {"app": "web"}}


def fill(server: ApiServer) -> list[dict[str, Any]]:
    names = [f"ns-{number:03}" for number in range(NAMESPACES)]
    asked = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}

    def pod(number: int) -> dict[str, Any]:
        container = {"name": "main", "image": "example.org/main:1.2", "resources": asked}
        return server.pod(
            names[number % NAMESPACES], f"web-7d9c-{number:05}",
            metadata=owners[number % NAMESPACES],
            spec={"containers": [container], "nodeName": f"node-{number % NODES:02}"},
        )  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        owners = list(pool.map(lambda it: workload(server, it), names))
        for number in range(NODES):
            capacity = {"cpu": "16", "memory": "64Gi", "pods": "110"}
            status = {
                "allocatable": capacity, "capacity": capacity,
                "conditions": [{"type": "Ready", "status": "True"}],
            }  # fmt: skip
            metadata = {"name": f"node-{number:02}"}
            server.create(
                {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}
            )
        return list(pool.map(pod, range(PODS)))


class Load:
    """Changes at a rate, and what browsers are shown of them."""

    def __init__(self, server: ApiServer, almenara: Almenara, pods: list[dict[str, Any]]) -> None:
        self.server, self.almenara, self.pods = server, almenara, pods
        names = [f"ns-{number:03}" for number in range(LOOKED_AT)]
        self.seen_pods = [it for it in pods if it["metadata"]["namespace"] in names]
        self.answered: dict[str, float] = {}
        """When the API server had answered to a change that is looked for."""
        self.pod_of: dict[str, int] = {}
        self.shown: dict[str, dict[str, float]] = {}
        """When a frame first had it, by panel."""
        self.frames = self.bytes = 0

    def change(self, pod: dict[str, Any], status: Mapping[str, Any]) -> None:
        self.server.patch_status(pod, status)
        if PROBE.match(word := status["reason"] or ""):
            self.answered[word] = time.time()

    async def churn(self) -> float:
        """Change pods at the rate; how many a second it was."""
        loop, began = asyncio.get_running_loop(), time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            pending = []
            for number in range(RATE * SECONDS):
                await asyncio.sleep(max(began + number / RATE - time.monotonic(), 0))
                if number % 6 == 0:
                    place = random.randrange(len(self.seen_pods))
                    word = f"Probe{number}x"
                    self.pod_of[word] = place
                    pod, status = self.seen_pods[place], {"phase": "Failed", "reason": word}
                else:
                    pod, status = random.choice(self.pods), dict(random.choice(OTHERS))
                pending.append(loop.run_in_executor(pool, self.change, pod, status))
            await asyncio.gather(*pending)
        return len(pending) / (time.monotonic() - began)

    async def browse(self, *panels: str) -> None:
        """Look at panels as a browser does, until cancelled."""
        query = urlencode([("panel", it) for it in panels])
        address = f"ws://127.0.0.1:{self.almenara.port}/live?{query}"
        async with websockets.connect(
            address, origin=self.almenara.url, max_size=None, compression=None
        ) as socket:
            async for text in socket:
                moment = time.time()
                self.frames, self.bytes = self.frames + 1, self.bytes + len(text)
                frame = json.loads(text)
                shown = self.shown.setdefault(str(frame.get("panel")), {})
                for word in PROBE.findall(str(frame.get("content", ""))):
                    shown.setdefault(word, moment)

    async def run(self) -> float:
        """Changes while people look: the pods of some namespaces, one pod, the whole cluster."""
        one = self.seen_pods[0]["metadata"]
        pages = [
            ("kubernetes.head", "kubernetes.map", "kubernetes.workloads"),
            (f"kubernetes.pod?namespace={one['namespace']}&name={one['name']}",),
            *(
                (f"kubernetes.head?namespace={it}", f"kubernetes.pods?namespace={it}")
                for it in sorted({it["metadata"]["namespace"] for it in self.seen_pods})
            ),
        ]
        async with asyncio.TaskGroup() as group:
            browsers = [group.create_task(self.browse(*page)) for page in pages]
            await asyncio.sleep(3)
            rate = await self.churn()
            await asyncio.sleep(SETTLED)
            for browser in browsers:
                browser.cancel()
        return rate

    def took(self, panel: str) -> tuple[list[float], int, int]:
        """Milliseconds from answer to frame; how many were overtaken by a later change of the same
        pod before anybody was shown them; and how many were never shown for no such reason."""
        shown = self.shown.get(panel, {})
        words = sorted(self.answered, key=self.answered.__getitem__)
        followers: dict[int, str] = {}
        after: dict[str, str | None] = {}
        for word in reversed(words):
            after[word] = followers.get(self.pod_of[word])
            followers[self.pod_of[word]] = word
        found, overtaken, lost = [], 0, 0
        for word in words:
            if word in shown:
                found.append(max(0.0, (shown[word] - self.answered[word]) * 1000))
            elif after[word] is not None or not self._last(word):
                overtaken += 1
            else:
                lost += 1
        return sorted(found), overtaken, lost

    def _last(self, word: str) -> bool:
        """Whether the pod still says so: the other changes may have hit it as well."""
        pod = self.seen_pods[self.pod_of[word]]["metadata"]
        path = self.server.path("v1", "Pod", pod["namespace"], pod["name"])
        return bool(self.server.send("GET", path)["status"].get("reason") == word)


def agrees(server: ApiServer, almenara: Almenara) -> bool:
    """Whether what is known is what the API server lists."""
    listed = {
        (it["metadata"]["namespace"], it["metadata"]["name"]): it["status"].get("reason")
        or it["status"]["phase"]
        for it in server.send("GET", "/api/v1/pods")["items"]
    }
    told = {
        (it["namespace"], it["name"]): it["status"]
        for it in almenara.get("/api/resources?kind=kubernetes.pod")
        if not it.get("gone")
    }
    return told == listed


@contextlib.contextmanager
def timed(*vitals: Vitals) -> Iterator[list[float]]:
    """Shares of a core that processes take meanwhile."""
    found: list[float] = []
    before, began = [it.seconds for it in vitals], time.monotonic()
    yield found
    took = time.monotonic() - began
    found += [(it.seconds - then) / took for it, then in zip(vitals, before, strict=True)]


def polled(server: ApiServer) -> int:
    """List all pods every few seconds, as who has no watch does; how many bytes a list is."""
    held = server._connection(anew=True)
    for _ in range(POLLS):
        began = time.monotonic()
        held.request("GET", "/api/v1/pods", headers={"accept": "application/json"})
        body = held.getresponse().read()
        json.loads(body)
        time.sleep(max(0.0, POLLED - (time.monotonic() - began)))
    return len(body)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder) / "api") as server:
        began = time.monotonic()
        pods = fill(server)
        say(f"filled {PODS:,} pods in {time.monotonic() - began:.0f} s")
        with Moving(server) as metrics:
            for it in pods:
                metadata = it["metadata"]
                metrics.pods[metadata["namespace"], metadata["name"]] = {"main": {}}
            metrics.nodes = {f"node-{number:02}": {} for number in range(NODES)}
            measure(server, pods, Path(folder))


def measure(server: ApiServer, pods: list[dict[str, Any]], folder: Path) -> None:
    assert server.process is not None
    asked = Vitals(server.process.pid)
    more = {
        "plugins__kubernetes__clusters": json.dumps(
            [{"kubeconfig": str(server.admin_kubeconfig)}]
        ),
        **({"plugins__kubernetes__usage_every": "1"} if FILL else {}),
    }  # fmt: skip
    with Almenara(folder / "almenara", "nats://127.0.0.1:9", **more) as almenara:
        assert almenara.process is not None
        vitals = Vitals(almenara.process.pid)
        began = time.monotonic()
        wait_until(lambda: agrees(server, almenara), "all pods", 120)
        say(f"first agreement after {time.monotonic() - began:.1f} s")
        if FILL:
            time.sleep(FILL)
        time.sleep(8)
        with timed(vitals, asked) as shares:
            time.sleep(IDLE)
        say(
            f"idle, usage measured: {vitals.resident:.0f} MiB resident (at most 200),"
            f" {shares[0]:.1%} of a core (at most 3 %); the API server {shares[1]:.1%}"
        )
        load = Load(server, almenara, pods)
        with timed(vitals) as shares:
            rate = asyncio.run(load.run())
        began = time.monotonic()
        wait_until(lambda: agrees(server, almenara), "the same state as a fresh list", 60)
        say(
            f"{rate:.0f} changes/s for {SECONDS} s: {vitals.resident:.0f} MiB, {shares[0]:.0%} of a"
            f" core, {load.frames} frames of {load.bytes / MIB / MIB:.1f} MiB; equal to a fresh"
            f" list {time.monotonic() - began:.1f} s later"
        )
        for panel in ("kubernetes.pods", "kubernetes.pod"):
            took, overtaken, lost = load.took(panel)
            if panel == "kubernetes.pod":
                # Only one of the pods is looked at there.
                overtaken = lost = 0
            if took:
                at = took[min(len(took) - 1, math.ceil(len(took) * 0.99) - 1)]
                say(
                    f"change to frame of {panel}, {len(took)} of them ({overtaken} overtaken,"
                    f" {lost} lost): median {took[len(took) // 2]:.0f} ms, p99 {at:.0f} ms"
                    f" (at most 300), most {took[-1]:.0f} ms"
                )
    own = Vitals(os.getpid())
    with timed(asked) as resting:
        time.sleep(POLLS * POLLED)
    with timed(own, asked) as shares:
        size = polled(server)
    say(
        f"polling all pods every {POLLED:.0f} s instead: {size / MIB / MIB * 60 / POLLED:.0f} MiB a"
        f" minute, {shares[0]:.1%} of a core at who asks (reading JSON, drawing nothing) and"
        f" {shares[1] - resting[0]:.1%} at the API server"
    )


if __name__ == "__main__":
    main()
