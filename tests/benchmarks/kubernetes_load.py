"""5,000 pods in 200 namespaces of a real API server: `make bench-kubernetes`.

BENCH_PODS, BENCH_NAMESPACES, BENCH_RATE and BENCH_SECONDS change how much is measured;
BENCH_FILL=120 first measures usage once a second for 120 seconds, to fill the memory of samples.
`--short` measures little, and fails only where something is lost or breaks.
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

SHORT = "--short" in sys.argv
PODS = int(os.environ.get("BENCH_PODS", "120" if SHORT else "5000"))
NAMESPACES = int(os.environ.get("BENCH_NAMESPACES", "12" if SHORT else "200"))
NODES = 10 if SHORT else 100
RATE = int(os.environ.get("BENCH_RATE", "20" if SHORT else "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "3" if SHORT else "30"))
FILL = int(os.environ.get("BENCH_FILL", "0"))
SETTLE = 1.0 if SHORT else 8.0
"""Seconds after the first agreement before idle use is measured."""
IDLE = 2.0 if SHORT else 45.0
"""Seconds: three rounds of usage."""
POLLED = 1.0 if SHORT else 5.0
"""Seconds between two polls of the client that we compare with."""
POLLS = 2 if SHORT else 3
MIB = 1024
VIEWED = 4
"""Namespaces whose pods are viewed; a sixth of all changes is in them."""
PROBE = re.compile(r"Probe\d+x")
SETTLED = 2.0 if SHORT else 5.0
"""Seconds after the last change in which its frame may still arrive."""
OTHERS: Sequence[Mapping[str, Any]] = (
    {"phase": "Failed", "reason": "Evicted"},
    {"phase": "Pending", "reason": None},
    {"phase": "Running", "reason": None},
)


class ProcessUse:
    """Resident memory and CPU time of a process."""

    def __init__(self, pid: int) -> None:
        self.folder = Path(f"/proc/{pid}")

    @property
    def resident(self) -> float:
        status = (self.folder / "status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) / MIB

    @property
    def seconds(self) -> float:
        fields = (self.folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ChangingMetrics(MetricsServer):
    """Reports other usage for each request, with a later timestamp."""

    step = timedelta(seconds=15)

    def _list(self, kind: str, items: list[Any]) -> Any:
        if kind == "PodMetricsList":
            self.timestamp = (self.timestamp or datetime.now(UTC)) + self.step
        for item in items:
            for reported in [item] if "usage" in item else item["containers"]:
                reported["usage"] = {
                    "cpu": f"{random.randrange(10**9)}n",
                    "memory": f"{random.randrange(10**6)}Ki",
                }
        return super()._list(kind, items)


def make_owner_reference(kind: str, owner: Mapping[str, Any]) -> dict[str, Any]:
    name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid}
    return {"ownerReferences": [{**reference, "controller": True}]}


def create_workload(server: ApiServer, namespace: str) -> dict[str, Any]:
    """Create a Deployment with its ReplicaSet, and return the metadata of the pods of the set."""
    server.namespace(namespace)
    spec = {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "example.org/main:1.2"}]},
        },
    }
    common = {"apiVersion": "apps/v1", "spec": {**spec, "replicas": PODS // NAMESPACES}}
    deployment = server.create(
        {**common, "kind": "Deployment", "metadata": {"namespace": namespace, "name": "web"}}
    )
    owner = make_owner_reference("Deployment", deployment)
    metadata = {"namespace": namespace, "name": "web-7d9c", **owner}
    replica_set = server.create({**common, "kind": "ReplicaSet", "metadata": metadata})
    return {**make_owner_reference("ReplicaSet", replica_set), "labels": {"app": "web"}}


def fill(server: ApiServer) -> list[dict[str, Any]]:
    """Create nodes, workloads and pods; returns the pods."""
    names = [f"ns-{number:03}" for number in range(NAMESPACES)]
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}

    def create_pod(number: int) -> dict[str, Any]:
        container = {"name": "main", "image": "example.org/main:1.2", "resources": resources}
        return server.pod(
            names[number % NAMESPACES], f"web-7d9c-{number:05}",
            metadata=owners[number % NAMESPACES],
            spec={"containers": [container], "nodeName": f"node-{number % NODES:02}"},
        )  # fmt: skip

    with ThreadPoolExecutor(4) as pool:
        owners = list(pool.map(lambda namespace: create_workload(server, namespace), names))
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
        return list(pool.map(create_pod, range(PODS)))


class Load:
    """Changes pods at a rate, and records when browsers receive the changes."""

    def __init__(self, server: ApiServer, almenara: Almenara, pods: list[dict[str, Any]]) -> None:
        self.server, self.almenara, self.pods = server, almenara, pods
        names = [f"ns-{number:03}" for number in range(VIEWED)]
        self.viewed_pods = [pod for pod in pods if pod["metadata"]["namespace"] in names]
        self.answered: dict[str, float] = {}
        """When the API server answered the change that set a probe."""
        self.pod_of: dict[str, int] = {}
        self.received: dict[str, dict[str, float]] = {}
        """When a frame first contained a probe, by panel."""
        self.frames = self.bytes = 0

    def change(self, pod: dict[str, Any], status: Mapping[str, Any]) -> None:
        self.server.patch_status(pod, status)
        if PROBE.match(word := status["reason"] or ""):
            self.answered[word] = time.time()

    async def churn(self) -> float:
        """Change pods at the rate; returns the changes a second that were reached."""
        loop, started = asyncio.get_running_loop(), time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            pending = []
            for number in range(RATE * SECONDS):
                await asyncio.sleep(max(started + number / RATE - time.monotonic(), 0))
                if number % 6 == 0:
                    place = random.randrange(len(self.viewed_pods))
                    word = f"Probe{number}x"
                    self.pod_of[word] = place
                    pod, status = self.viewed_pods[place], {"phase": "Failed", "reason": word}
                else:
                    pod, status = random.choice(self.pods), dict(random.choice(OTHERS))
                pending.append(loop.run_in_executor(pool, self.change, pod, status))
            await asyncio.gather(*pending)
        return len(pending) / (time.monotonic() - started)

    async def browse(self, *panels: str) -> None:
        """Open panels as a browser does, until cancelled."""
        query = urlencode([("panel", panel) for panel in panels])
        address = f"ws://127.0.0.1:{self.almenara.port}/live?{query}"
        async with websockets.connect(
            address, origin=self.almenara.url, max_size=None, compression=None
        ) as socket:
            async for text in socket:
                moment = time.time()
                self.frames, self.bytes = self.frames + 1, self.bytes + len(text)
                frame = json.loads(text)
                received = self.received.setdefault(str(frame.get("panel")), {})
                for word in PROBE.findall(str(frame.get("content", ""))):
                    received.setdefault(word, moment)

    async def run(self) -> float:
        """Change pods while the cluster, one pod and the pods of some namespaces are viewed."""
        one = self.viewed_pods[0]["metadata"]
        pages = [
            ("kubernetes.head", "kubernetes.map", "kubernetes.workloads"),
            (f"kubernetes.pod?namespace={one['namespace']}&name={one['name']}",),
            *(
                (f"kubernetes.head?namespace={namespace}", f"kubernetes.pods?namespace={namespace}")
                for namespace in sorted({pod["metadata"]["namespace"] for pod in self.viewed_pods})
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

    def find_latencies(self, panel: str) -> tuple[list[float], int, int]:
        """Sorted milliseconds from answer to frame; how many changes a later change of the same pod
        replaced before a frame was due; and how many were lost."""
        received = self.received.get(panel, {})
        words = sorted(self.answered, key=self.answered.__getitem__)
        followers: dict[int, str] = {}
        after: dict[str, str | None] = {}
        for word in reversed(words):
            after[word] = followers.get(self.pod_of[word])
            followers[self.pod_of[word]] = word
        latencies, overtaken, lost = [], 0, 0
        for word in words:
            if word in received:
                latencies.append(max(0.0, (received[word] - self.answered[word]) * 1000))
            elif after[word] is not None or not self._is_current(word):
                overtaken += 1
            else:
                lost += 1
        return sorted(latencies), overtaken, lost

    def _is_current(self, word: str) -> bool:
        """Whether the pod still has the probe: other changes may have replaced it."""
        pod = self.viewed_pods[self.pod_of[word]]["metadata"]
        path = self.server.path("v1", "Pod", pod["namespace"], pod["name"])
        return bool(self.server.send("GET", path)["status"].get("reason") == word)


def is_in_sync(server: ApiServer, almenara: Almenara) -> bool:
    """Whether the known resources are those that the API server lists."""
    listed = {
        (pod["metadata"]["namespace"], pod["metadata"]["name"]): pod["status"].get("reason")
        or pod["status"]["phase"]
        for pod in server.send("GET", "/api/v1/pods")["items"]
    }
    known = {
        (pod["namespace"], pod["name"]): pod["status"]
        for pod in almenara.get("/api/resources?kind=kubernetes.pod&limit=10000")
        if not pod["deleted"]
    }
    return known == listed


@contextlib.contextmanager
def measure_cpu(*processes: ProcessUse) -> Iterator[list[float]]:
    """The shares of a core that processes use during the block."""
    shares: list[float] = []
    before, started = [process.seconds for process in processes], time.monotonic()
    yield shares
    took = time.monotonic() - started
    shares += [
        (process.seconds - seconds) / took
        for process, seconds in zip(processes, before, strict=True)
    ]


def poll(server: ApiServer) -> int:
    """List all pods every few seconds, as a client without a watch does; returns bytes a list."""
    connection = server._connection(reconnect=True)
    for _ in range(POLLS):
        started = time.monotonic()
        connection.request("GET", "/api/v1/pods", headers={"accept": "application/json"})
        body = connection.getresponse().read()
        json.loads(body)
        time.sleep(max(0.0, POLLED - (time.monotonic() - started)))
    return len(body)


def report(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder) / "api") as server:
        started = time.monotonic()
        pods = fill(server)
        report(f"filled {PODS:,} pods in {time.monotonic() - started:.0f} s")
        with ChangingMetrics(server) as metrics:
            for pod in pods:
                metadata = pod["metadata"]
                metrics.pods[metadata["namespace"], metadata["name"]] = {"main": {}}
            metrics.nodes = {f"node-{number:02}": {} for number in range(NODES)}
            measure(server, pods, Path(folder))


def measure(server: ApiServer, pods: list[dict[str, Any]], folder: Path) -> None:
    assert server.process is not None
    api_server = ProcessUse(server.process.pid)
    more = {
        "plugins__kubernetes__clusters": json.dumps(
            [{"kubeconfig": str(server.admin_kubeconfig)}]
        ),
        **({"plugins__kubernetes__usage_every": "1"} if FILL else {}),
    }  # fmt: skip
    with Almenara(folder / "almenara", "nats://127.0.0.1:9", **more) as almenara:
        assert almenara.process is not None
        process = ProcessUse(almenara.process.pid)
        started = time.monotonic()
        wait_until(lambda: is_in_sync(server, almenara), "all pods", 120)
        report(f"in sync after {time.monotonic() - started:.1f} s")
        if FILL:
            time.sleep(FILL)
        time.sleep(SETTLE)
        with measure_cpu(process, api_server) as shares:
            time.sleep(IDLE)
        report(
            f"idle, usage measured: {process.resident:.0f} MiB resident (at most 200),"
            f" {shares[0]:.1%} of a core (at most 3 %); the API server {shares[1]:.1%}"
        )
        load = Load(server, almenara, pods)
        with measure_cpu(process) as shares:
            rate = asyncio.run(load.run())
        started = time.monotonic()
        wait_until(lambda: is_in_sync(server, almenara), "the same state as a fresh list", 60)
        missing = 0
        report(
            f"{rate:.0f} changes/s for {SECONDS} s: {process.resident:.0f} MiB, {shares[0]:.0%} of"
            f" a core, {load.frames} frames of {load.bytes / MIB / MIB:.1f} MiB; equal to a fresh"
            f" list {time.monotonic() - started:.1f} s later"
        )
        for panel in ("kubernetes.pods", "kubernetes.pod"):
            took, overtaken, lost = load.find_latencies(panel)
            if panel == "kubernetes.pod":
                # That panel shows only one of the pods.
                overtaken = lost = 0
            missing += lost
            if took:
                at = took[min(len(took) - 1, math.ceil(len(took) * 0.99) - 1)]
                report(
                    f"change to frame of {panel}, {len(took)} of them ({overtaken} overtaken,"
                    f" {lost} lost): median {took[len(took) // 2]:.0f} ms, p99 {at:.0f} ms"
                    f" (at most 300), most {took[-1]:.0f} ms"
                )
    own = ProcessUse(os.getpid())
    with measure_cpu(api_server) as resting:
        time.sleep(POLLS * POLLED)
    with measure_cpu(own, api_server) as shares:
        size = poll(server)
    report(
        f"polling all pods every {POLLED:.0f} s instead: {size / MIB / MIB * 60 / POLLED:.0f} MiB a"
        f" minute, {shares[0]:.1%} of a core in the client (parses JSON, renders nothing) and"
        f" {shares[1] - resting[0]:.1%} at the API server"
    )
    if missing or not load.answered:
        raise SystemExit(f"{missing} of {len(load.answered)} changes never appeared in a frame")


if __name__ == "__main__":
    main()
