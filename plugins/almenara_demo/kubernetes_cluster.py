"""A simulated Kubernetes cluster: a small server that answers as an API server does.

The Kubernetes plugin watches it as it watches a real one: lists as streams, watches with bookmarks,
logs, `metrics.k8s.io`. `python -m almenara_demo.kubernetes_cluster PODS KUBECONFIG` runs it alone
and writes the kubeconfig to connect by.
"""

import asyncio
import contextlib
import math
import random
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from aiohttp import web

from almenara.sdk import blocking, every, now, sleep
from almenara.signals import format_time, parse_time
from almenara.units import SECOND
from almenara_demo.kubernetes_fleet import GIB, LINES
from almenara_demo.kubernetes_kinds import KINDS, PODS, Change, Kind, Tree
from almenara_demo.kubernetes_world import World

NAME: Final = "simulated"
STEP: Final = 1.0
"""Seconds between two steps of the world."""
INCIDENT_EVERY: Final = 9
LOG: Final = 50_000
"""Changes that are kept for watches; older positions have expired."""
BOOKMARK_EVERY: Final = 30.0
VERSION: Final = {"major": "1", "minor": "37", "gitVersion": "v1.37.2"}
INITIAL_END: Final = {"k8s.io/initial-events-end": "true"}
METRICS: Final = "metrics.k8s.io/v1beta1"
WINDOW: Final = "15s"
PAST_LINES: Final = 40
PREVIOUS_AGE: Final = 300 * SECOND


class LogEntry(msgspec.Struct, frozen=True):
    """A change of an object, as a watch sends it."""

    version: int
    kind: str
    namespace: str
    line: bytes


class SimulatedCluster:
    """The objects of a simulated cluster, and the log of their changes."""

    def __init__(self, pods: int, seed: int = 0) -> None:
        self.world = World(pods, now, seed)
        self.version = 1
        self.log: deque[LogEntry] = deque(maxlen=LOG)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Let things happen, until cancelled."""
        world = self.world
        world.begin(world.rollout(world.workloads["council/council-qa"], fails=False))
        world.begin(world.rollout(world.workloads["planning/story-board"], fails=True))
        world.begin(world.crash_loop(world.workloads["context/context-indexer"]))
        world.begin(world.job())
        async for step in every(STEP):
            if step % INCIDENT_EVERY == INCIDENT_EVERY - 1:
                world.incident()
            self._record(world.step())

    def _record(self, changes: list[Change]) -> None:
        for change in changes:
            self.version += 1
            known = self.world.objects.get(change.kind.kind, {})
            metadata = change.tree["metadata"]
            key = metadata.get("namespace", ""), metadata["name"]
            is_deleted = change.deleted or key not in known
            line = encode_event(
                "DELETED" if is_deleted else "MODIFIED",
                with_version(change.kind, change.tree, self.version),
            )
            self.log.append(LogEntry(self.version, change.kind.kind, key[0], line))
        if changes:
            self._changed.set()
            self._changed = asyncio.Event()

    async def wait_for_change(self, seconds: float) -> None:
        """Return after the next change, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def objects(self, kind: Kind, namespace: str) -> Iterator[Tree]:
        """The objects of a kind in a namespace or, where that is empty, in all."""
        for (inside, _), tree in self.world.objects.get(kind.kind, {}).items():
            if namespace in ("", inside):
                yield with_version(kind, tree, self.version)

    def changes_after(self, version: int, kind: Kind, namespace: str) -> list[LogEntry]:
        """The changes of a kind since a version."""
        changes: list[LogEntry] = []
        for entry in reversed(self.log):
            if entry.version <= version:
                break
            if entry.kind == kind.kind and namespace in ("", entry.namespace):
                changes.append(entry)
        return changes[::-1]

    def list_names(self, kind: Kind, namespace: str) -> list[str]:
        """The names of the objects of a kind in a namespace, sorted."""
        return sorted(tree["metadata"]["name"] for tree in self.objects(kind, namespace))

    def find(self, kind: Kind, namespace: str, name: str) -> Tree | None:
        """An object, or None."""
        return self.world.objects.get(kind.kind, {}).get((namespace, name))


def with_version(kind: Kind, tree: Tree, version: int) -> Tree:
    """An object as the API sends it."""
    metadata = {**tree["metadata"], "resourceVersion": str(version)}
    return {"apiVersion": kind.api_version, "kind": kind.kind, **tree, "metadata": metadata}


def encode_event(kind: str, tree: Mapping[str, Any]) -> bytes:
    """A line of a watch."""
    return msgspec.json.encode({"type": kind, "object": tree}) + b"\n"


def make_app(cluster: SimulatedCluster) -> web.Application:
    """The API of a simulated cluster."""
    api = Api(cluster)
    app = web.Application()
    app.router.add_get("/version", api.version)
    app.router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", api.review)
    app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}/log", api.pod_log)
    app.router.add_get("/apis/{group}", api.group)
    for plural, measure in (("pods", measure_pods), ("nodes", measure_nodes)):
        app.router.add_get(f"/apis/{METRICS}/{plural}", api.metrics(measure))
    for kind in KINDS:
        collection = api.collection(kind)
        app.router.add_get(f"{kind.path}/{kind.plural}", collection)
        if kind.namespaced:
            inside = f"{kind.path}/namespaces/{{namespace}}/{kind.plural}"
            app.router.add_get(inside, collection)
            app.router.add_get(f"{inside}/{{name}}", api.single(kind))
    return app


class Api:
    """The handlers of the API."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster

    async def version(self, _: web.Request) -> web.Response:
        """`/version`."""
        return web.json_response(VERSION)

    async def group(self, _: web.Request) -> web.Response:
        """An API group: all of them are served."""
        return web.json_response({"kind": "APIGroup"})

    async def review(self, _: web.Request) -> web.Response:
        """A SelfSubjectAccessReview: everything is allowed."""
        return web.json_response({"status": {"allowed": True}}, status=201)

    def single(self, kind: Kind) -> Any:
        """The handler of one object."""

        async def handle(request: web.Request) -> web.Response:
            tree = self.cluster.find(
                kind, request.match_info["namespace"], request.match_info["name"]
            )
            if tree is None:
                return not_found(f'{kind.plural} "{request.match_info["name"]}" not found')
            return json_answer(with_version(kind, tree, self.cluster.version))

        return handle

    def collection(self, kind: Kind) -> Any:
        """The handler of a list or a watch of a kind."""

        async def handle(request: web.Request) -> web.StreamResponse:
            namespace = request.match_info.get("namespace", "")
            if request.query.get("watch") == "true":
                return await self._watch(request, kind, namespace)
            items = list(self.cluster.objects(kind, namespace))
            name = request.query.get("fieldSelector", "").removeprefix("metadata.name=")
            if name:
                items = [item for item in items if item["metadata"]["name"] == name]
            metadata = {"resourceVersion": str(self.cluster.version)}
            return json_answer({"kind": f"{kind.kind}List", "metadata": metadata, "items": items})

        return handle

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        cluster = self.cluster
        position = int(request.query.get("resourceVersion") or cluster.version)
        end = now() + int(request.query.get("timeoutSeconds", "300")) * SECOND
        # A client that disconnects cancels nothing here, but writing to it fails.
        with contextlib.suppress(ConnectionError):
            if request.query.get("sendInitialEvents") == "true":
                position = cluster.version
                events = [encode_event("ADDED", tree) for tree in cluster.objects(kind, namespace)]
                events.append(bookmark(kind, position, INITIAL_END))
                await response.write(b"".join(events))
            elif cluster.log and position < cluster.log[0].version - 1:
                status = {"kind": "Status", "code": 410, "reason": "Expired"}
                await response.write(encode_event("ERROR", status))
                return response
            bookmarked = now()
            while now() < end:
                changes = cluster.changes_after(position, kind, namespace)
                position = cluster.version
                if changes:
                    await response.write(b"".join(entry.line for entry in changes))
                elif now() - bookmarked > BOOKMARK_EVERY * SECOND:
                    bookmarked = now()
                    await response.write(bookmark(kind, position))
                await cluster.wait_for_change(min(BOOKMARK_EVERY, (end - now()) / SECOND))
        return response

    def metrics(self, measure: Any) -> Any:
        """The handler of the usage of pods or nodes."""

        async def handle(_: web.Request) -> web.Response:
            return json_answer({"metadata": {}, "items": measure(self.cluster.world, now())})

        return handle

    async def pod_log(self, request: web.Request) -> web.StreamResponse:
        """The log of a container: some lines from before, then one now and then."""
        namespace, pod = request.match_info["namespace"], request.match_info["name"]
        tree = self.cluster.find(PODS, namespace, pod)
        container = request.query.get("container", "")
        if tree is None:
            return not_found(f'pods "{pod}" not found')
        declared = (*tree["spec"]["containers"], *tree["spec"]["initContainers"])
        if container not in {entry["name"] for entry in declared}:
            return not_found(f"container {container} is not valid for pod {pod}")
        previous = request.query.get("previous") == "true"
        response = web.StreamResponse(headers={"content-type": "text/plain"})
        await response.prepare(request)
        draw = random.Random(f"{pod}/{container}/{previous}")  # nosec B311 # simulates a cluster
        since = parse_time(request.query.get("sinceTime", "1970-01-01T00:00:00Z"))
        end = now() - (PREVIOUS_AGE if previous else 0)
        times = [end - back * 2 * SECOND for back in range(PAST_LINES, 0, -1)]
        with contextlib.suppress(ConnectionError):
            lines = [log_line(draw, time) for time in times if time >= since]
            await response.write(b"".join(lines))
            while not previous:
                await sleep(draw.uniform(0.3, 2.5))
                await response.write(log_line(draw, now()))
        return response


def bookmark(kind: Kind, version: int, annotations: Mapping[str, str] | None = None) -> bytes:
    """The line of a watch that moves its position."""
    metadata = {"resourceVersion": str(version), "annotations": annotations or {}}
    tree = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    return encode_event("BOOKMARK", tree)


def json_answer(tree: Mapping[str, Any]) -> web.Response:
    """An answer with a JSON body."""
    return web.Response(body=msgspec.json.encode(tree), content_type="application/json")


def not_found(message: str) -> web.Response:
    """The answer for what does not exist."""
    status = {"kind": "Status", "code": 404, "reason": "NotFound", "message": message}
    return web.json_response(status, status=404)


def log_line(draw: random.Random, time: int) -> bytes:
    """A line of a container with its time."""
    text = draw.choice(LINES).format(task=f"US-{draw.randint(100, 190)}")
    return f"{format_time(time)} {text}\n".encode()


def usages(world: World, time: int) -> Iterator[tuple[Tree, float, float]]:
    """The cores and bytes that each running pod uses: a load that rises and falls, a little
    different for each."""
    for (_, name), tree in world.objects[PODS.kind].items():
        if tree["status"]["phase"] != "Running":
            continue
        requests = tree["spec"]["containers"][0]["resources"]["requests"]
        cores = float(requests["cpu"].removesuffix("m")) / 1000
        memory = float(requests["memory"].removesuffix("Mi")) * GIB / 1024
        own = random.Random(name).random()  # nosec B311 # simulates a cluster
        wave = math.sin(time / SECOND / (180 + 300 * own) + own * 6.3)
        noise = random.Random(f"{name}/{time // SECOND}").uniform(-0.08, 0.08)  # nosec B311 # simulates a cluster
        cpu = max(cores * (0.45 + 0.4 * own + 0.35 * wave + noise), 0.002)
        yield tree, cpu, memory * (0.55 + 0.3 * own + 0.08 * wave + noise / 4)


def measure_pods(world: World, time: int) -> list[Tree]:
    """The PodMetrics of all running pods."""
    return [
        {
            "metadata": {key: tree["metadata"][key] for key in ("namespace", "name")},
            "timestamp": format_time(time), "window": WINDOW,
            "containers": [
                {"name": tree["spec"]["containers"][0]["name"], "usage": quantities(cpu, memory)}
            ],
        }
        for tree, cpu, memory in usages(world, time)
    ]  # fmt: skip


def measure_nodes(world: World, time: int) -> list[Tree]:
    """The NodeMetrics of all nodes with running pods."""
    sums: dict[str, tuple[float, float]] = {}
    for tree, cpu, memory in usages(world, time):
        node = tree["spec"]["nodeName"]
        before = sums.get(node, (0.0, 0.0))
        sums[node] = before[0] + cpu, before[1] + memory
    return [
        {
            "metadata": {"name": name}, "timestamp": format_time(time), "window": WINDOW,
            "usage": quantities(*usage),
        }
        for name, usage in sums.items()
    ]  # fmt: skip


def quantities(cpu: float, memory: float) -> dict[str, str]:
    """CPU and memory as the API writes them."""
    return {"cpu": f"{cpu * 1e9:.0f}n", "memory": f"{memory / 1024:.0f}Ki"}


def write_kubeconfig(path: Path, port: int) -> None:
    """Write the kubeconfig to connect by."""
    text = yaml.safe_dump(
        {
            "apiVersion": "v1", "kind": "Config", "current-context": NAME,
            "clusters": [{"name": NAME, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
            "users": [{"name": NAME, "user": {}}],
        }
    )  # fmt: skip
    # The file appears complete, since others wait for it.
    part = path.absolute().with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path.absolute())


@contextlib.asynccontextmanager
async def simulated_cluster(
    pods: int, kubeconfig: Path, seed: int = 0
) -> AsyncIterator[SimulatedCluster]:
    """Run a simulated cluster on 127.0.0.1, and write the kubeconfig to connect by."""
    cluster = SimulatedCluster(pods, seed)
    runner = web.AppRunner(make_app(cluster), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0][:2]
    await blocking(lambda: write_kubeconfig(kubeconfig, port))
    running = asyncio.create_task(cluster.run(), name="simulated Kubernetes")
    try:
        yield cluster
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await runner.cleanup()


async def _main(pods: int, kubeconfig: Path) -> None:
    async with simulated_cluster(pods, kubeconfig):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
