"""What API servers and networks do to a watch: each recovered without a gap or a relist storm."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.signals import Resource
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings
from almenara_kubernetes.source import ClusterSource
from support.api_proxy import ApiProxy, answer, status
from support.api_server import ApiServer

pytestmark = pytest.mark.anyio

RULES = [
    {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["list", "watch"]},
]
PODS = "/pods"
PATIENCE = 20.0
LISTS = r"(sendInitialEvents=true|[?&]limit=|/pods$)"


class Bench:
    """A source that watches the pods of a namespace through a proxy."""

    def __init__(self, server: ApiServer, proxy: ApiProxy, run: SourceRun, namespace: str) -> None:
        self.server, self.proxy, self.run, self.namespace = server, proxy, run, namespace
        self._number = 0

    async def change(self) -> None:
        """Create a pod, change one and delete one."""
        self._number += 1
        number = self._number
        await asyncio.to_thread(self.server.pod, self.namespace, f"new-{number}")
        gone = await asyncio.to_thread(self.server.pod, self.namespace, f"gone-{number}")
        changed = await asyncio.to_thread(self.server.pod, self.namespace, f"changed-{number}")
        await asyncio.to_thread(self.server.patch_status, changed, {"phase": "Failed"})
        await asyncio.to_thread(self.server.delete, gone)

    def known_resources(self) -> dict[str, str]:
        match: dict[str, Resource] = {}
        for each in self.run.bus.signals:
            if isinstance(each, Resource) and each.kind == "kubernetes.pod":
                match[each.name] = each
        return {name: each.state["uid"] for name, each in match.items() if not each.deleted}

    def failed(self) -> set[str]:
        """Pods that were last published as failed."""
        last = {
            each.name: each.status
            for each in self.run.bus.signals
            if isinstance(each, Resource) and each.kind == "kubernetes.pod"
        }
        return {name for name, word in last.items() if word in ("Failed", "Error")}

    async def agrees(self, patience: float = PATIENCE) -> None:
        """Return once what was published is what the API server lists, within the patience."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items = (await asyncio.to_thread(self.server.send, "GET", path))["items"]
        listed = {each["metadata"]["name"]: each["metadata"]["uid"] for each in items}
        wrong = {each["metadata"]["name"] for each in items if each["status"]["phase"] == "Failed"}
        await self.run.until(
            lambda: self.known_resources() == listed and wrong <= self.failed(), patience
        )


@contextlib.asynccontextmanager
async def bench(
    server: ApiServer, namespace: str, folder: Path, **more: object
) -> AsyncIterator[Bench]:
    token = await asyncio.to_thread(server.service_account, namespace, "almenara")
    await asyncio.to_thread(server.allow, f"{namespace}/almenara", RULES, namespace)
    async with ApiProxy(server) as proxy:
        path = server.kubeconfig(token=token, server=proxy.url, path=folder / "kubeconfig")
        cluster = ClusterSettings(kubeconfig=path, namespaces=[namespace])
        chosen = KubernetesSettings(
            **{
                "clusters": [cluster], "kinds": ["pod"], "usage": False, "probe_every": 0.5,
                "probe_timeout": 1.0, "silence": 30.0, **more,
            }  # type: ignore[arg-type]
        )  # fmt: skip
        run = SourceRun(ClusterSource(cluster, chosen, MemoryContext(folder))).start()
        try:
            each = Bench(server, proxy, run, namespace)
            await each.change()
            await each.agrees()
            yield each
        finally:
            # The tasks of the proxy are in this loop too, and not left behind by the source.
            await run.stop()


async def test_broken_watch_continues_from_its_position(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()
        for _ in range(3):
            each.proxy.cut()
            await each.change()
            await each.agrees()
        assert each.proxy.matching(LISTS, since) == []
        assert len(each.proxy.matching(PODS, since)) <= 6


EXPIRED = b'{"type":"ERROR","object":' + status(410, "Expired").encode() + b"}"


async def test_expired_watch_lists_once(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()
        assert each.proxy.inject(EXPIRED) == 1
        await each.change()
        await each.agrees()
        assert len(each.proxy.matching(LISTS, since)) == 1


async def test_server_that_expires_every_watch_is_not_flooded(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()

        def expired(path: str) -> bytes | None:
            if "resourceVersion=" in path and "sendInitialEvents" not in path:
                return answer(410, status(410, "Expired"))
            # Nor is there a list that goes on as a watch.
            return answer(422, status(422, "Invalid")) if "sendInitial" in path else None

        each.proxy.instead = expired
        each.proxy.cut()
        await asyncio.sleep(6)
        assert 2 <= len(each.proxy.matching(LISTS, since)) <= 6
        each.proxy.instead = lambda _: None
        await each.change()
        await each.agrees()


async def test_compaction_during_an_outage_is_recovered_from(
    tmp_path: Path, own_api_server: ApiServer
) -> None:
    server = own_api_server
    namespace = await asyncio.to_thread(server.namespace, "compacted")
    async with bench(server, namespace, tmp_path) as each:
        each.proxy.instead = lambda _: answer(503)
        each.proxy.cut()
        await each.change()
        # Without its memory of what was, and with etcd's cut off, it cannot but say 410.
        await asyncio.to_thread(server.compact)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await each.change()
        since = time.monotonic()
        each.proxy.instead = lambda _: None
        await each.agrees()
        assert len(each.proxy.matching(LISTS, since)) == 1
        await each.run.until(lambda: not each.run.is_degraded)


async def test_retry_after_pauses_all_requests(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()

        def refuse(path: str) -> bytes | None:
            body = status(429, "TooManyRequests")
            return answer(429, body, "Retry-After: 3") if "/pods" in path else None

        each.proxy.instead = refuse
        each.proxy.cut()
        await each.change()
        await each.run.until(lambda: each.run.is_degraded)
        await asyncio.sleep(5)
        assert 1 <= len(each.proxy.matching(PODS, since)) <= 3
        each.proxy.instead = lambda _: None
        await each.agrees()
        assert each.proxy.matching(LISTS, since) == []


@pytest.mark.parametrize(
    "made",
    [
        answer(500, status(500, "InternalError")),
        answer(503, "<html>no server is available</html>"),
        answer(504, status(504, "Timeout")),
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{half",
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=["500", "503", "504", "empty", "half", "nonsense", "nothing"],
)
async def test_failing_server_gets_requests_with_backoff(
    api_server: ApiServer, namespace: str, tmp_path: Path, made: bytes
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()
        each.proxy.instead = lambda path: made if "/pods" in path else None
        each.proxy.cut()
        await each.change()
        await asyncio.sleep(5)
        assert 2 <= len(each.proxy.matching(PODS, since)) <= 6
        each.proxy.instead = lambda _: None
        await each.agrees()
        await each.run.until(lambda: not each.run.is_degraded, PATIENCE)


@pytest.mark.parametrize("line", [b"{nonsense", b'{"type":"ODD","object":{}}', b"\xff\xfe", b"[]"])
async def test_garbage_in_a_watch_loses_nothing(
    api_server: ApiServer, namespace: str, tmp_path: Path, line: bytes
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()
        assert each.proxy.inject(line) == 1
        await each.change()
        await each.agrees()
        assert each.proxy.matching(LISTS, since) == []


async def test_half_open_connection_is_stale_and_replaced(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path) as each:
        since = time.monotonic()
        each.proxy.freeze()
        await each.run.until(lambda: each.run.is_degraded, 10)
        assert "has not answered within 1 s" in each.run.degraded_for[-1]
        await each.change()
        await asyncio.sleep(3)
        # While there is no answer, a single probe stands for all requests.
        assert each.proxy.matching(PODS, since) == []
        assert len(each.proxy.requests) < 12
        each.proxy.thaw()
        await each.agrees(5)
        await each.run.until(lambda: not each.run.is_degraded)


async def test_half_open_watch_ends_by_its_silence(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path, silence=1.5) as each:
        watches = [writer for writer, path in each.proxy._open.items() if "watch=true" in path]
        assert len(watches) == 1
        # Bytes go nowhere from here on, on this connection only.
        watches[0].write = lambda _: None  # type: ignore[method-assign, assignment]
        await each.change()
        await each.agrees()


async def test_frozen_and_killed_server_is_noticed_and_caught_up_with(
    own_api_server: ApiServer, tmp_path: Path
) -> None:
    server = own_api_server
    namespace = await asyncio.to_thread(server.namespace, "frozen")
    async with bench(server, namespace, tmp_path) as each:
        server.freeze()
        try:
            await each.run.until(lambda: each.run.is_degraded, 10)
        finally:
            server.thaw()
        await each.change()
        await each.agrees(10)
        since = time.monotonic()
        await asyncio.to_thread(server.kill)
        await each.run.until(lambda: each.run.is_degraded, 10)
        await asyncio.sleep(3)
        assert len(each.proxy.matching(PODS, since)) <= 2
        await asyncio.to_thread(server.start)
        await each.change()
        await each.agrees()
        await each.run.until(lambda: not each.run.is_degraded)


async def test_pages_are_read_without_streamed_lists_and_restart_when_expired(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    for number in range(7):
        await asyncio.to_thread(api_server.pod, namespace, f"pod-{number}")
    expired = 0

    def old(path: str) -> bytes | None:
        nonlocal expired
        if "sendInitialEvents" in path:
            return answer(422, status(422, "Invalid"))
        if "continue=" in path and not expired:
            expired += 1
            return answer(410, status(410, "Expired"))
        return None

    async with bench(api_server, namespace, tmp_path, page=3) as each:
        each.proxy.instead = old
        since = time.monotonic()
        each.proxy.inject(EXPIRED)
        await each.change()
        await each.agrees()
        assert expired == 1
        assert any("limit=3" in path for path in each.proxy.matching(PODS, since))

        def watches() -> bool:
            # The list may be published before the watch that continues from it starts.
            paths = each.proxy.matching(PODS, since)
            return any("watch=true" in path and "sendInitial" not in path for path in paths)

        await each.run.until(watches, PATIENCE)


async def test_slow_server_is_waited_for(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path, probe_timeout=4.0) as each:
        each.proxy.delay = 1.5
        each.proxy.cut()
        await each.change()
        await each.agrees()
        assert not each.run.is_degraded or "connection broke" in each.run.degraded_for[-1]


async def test_deleted_namespace_deletes_its_pods_and_may_be_recreated(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    async with bench(api_server, namespace, tmp_path, refused_every=0.5) as each:
        await asyncio.to_thread(api_server.remove_namespace, namespace)
        await each.run.until(lambda: each.known_resources() == {}, PATIENCE)
        await asyncio.to_thread(api_server.namespace, namespace)
        await asyncio.to_thread(api_server.service_account, namespace, "almenara")
