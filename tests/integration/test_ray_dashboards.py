"""The Ray plugin against dashboards that hang, lie, break off, never end, or send elsewhere."""

import asyncio
import contextlib
import gzip
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from test_http_source import certificate

from almenara.config import ConfigError, Secret, decode_settings
from almenara.hookspecs import Publish, SourceReport
from almenara.signals import Event
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_demo.ray_cluster import simulated
from almenara_ray.dashboard import PATHS, AskingError, Dashboard, TooLongError
from almenara_ray.settings import ClusterSettings, RaySettings
from almenara_ray.source import RaySource
from support.servers import free_port

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def apart(made: contextlib.AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """A server on an event loop of its own, so that its tasks are not taken for the source's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def there(what: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, loop))

    try:
        yield await there(made.__aenter__())
    finally:
        await there(made.__aexit__(None, None, None))
        await there(end())
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()


def serving(
    handler: Handler, tls: ssl.SSLContext | None = None
) -> contextlib.AbstractAsyncContextManager[str]:
    """A server that reads the head of each request and leaves the answer to the handler."""
    return apart(listening(handler, tls))


@contextlib.asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[str]:

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await handler(head.decode(), writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
    finally:
        server.close()


def answering(body: bytes, status: str = "200 OK", headers: str = "", length: int = 0) -> Handler:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        size = length or len(body)
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {size}\r\n{headers}\r\n".encode())
        writer.write(body)
        await writer.drain()
        if length:
            writer.close()

    return answer


async def silent(head: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def endless(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n[")
    while True:
        writer.write(b"0," * 32768)
        await writer.drain()


async def dripping(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"[")
        await writer.drain()
        await asyncio.sleep(0.1)


async def garbage(head: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff not HTTP at all\r\n\r\n")
    await writer.drain()


def settings(*urls: str, **more: Any) -> RaySettings:
    clusters = [
        ClusterSettings(name=f"c{number}", url=url, token=Secret.of("t0ken-word"))
        for number, url in enumerate(urls)
    ]
    return RaySettings(
        clusters=clusters, **{"active": 0.1, "idle": 0.1, "timeout": 0.8, "connect_timeout": 0.5,
                              "shape_every": 0.3, **more}
    )  # fmt: skip


FAULTS: list[tuple[Handler, str]] = [
    (silent, "answer within 0.8 s"),
    (dripping, "no whole answer within 0.8 s"),
    (endless, "longer than 1,000,000 bytes"),
    (garbage, "illegal"),
    (answering(b"oh no", "500 Internal Server Error"), "answers 500, expected 200"),
    (answering(b'[{"submission_id": "a"', length=5000), "closed"),
    (answering(b"<html>sign in</html>"), "its answer is HTML"),
    (answering(b"[1, 2"), "no JSON"),
    (answering(b"{}"), ""),
    (answering(b"17"), "its list of jobs is no list"),
    (answering(b"", "302 Found", "location: http://127.0.0.1:1/\r\n"), "points elsewhere"),
    (answering(b"", "401 Unauthorized"), "the token, or a header, is missing or wrong"),
    (answering(gzip.compress(b"[]"), headers="content-encoding: gzip\r\n"), "compressed"),
]


@pytest.mark.parametrize(("handler", "told"), FAULTS)
async def test_a_dashboard_that_misbehaves_is_told_in_words_and_in_time(
    handler: Handler, told: str, tmp_path: Path
) -> None:
    async with asyncio.timeout(15), serving(handler) as url:
        chosen = settings(url, body_limit=1_000_000)
        source = RaySource(chosen.clusters[0], chosen, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            wanted = "down" if told else "up"
            await run.until(
                lambda: (
                    "c0" in run.resources
                    and run.resources["c0"].status in (wanted, "partial" if not told else wanted)
                )
            )
            assert told in run.resources["c0"].state["reason"]
            if told:
                assert run.is_degraded
                assert told in run.degraded_for[-1]
                assert [it.type for it in run.events] == ["ray.cluster.down"]
            told_of = repr(run.bus.signals) + repr(run.degraded_for)
            assert "t0ken-word" not in told_of
            assert url.removeprefix("http://") not in told_of


async def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else() -> None:
    strangers: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        strangers.append(head)
        await answering(b"[]")(head, writer)

    async with serving(keep) as elsewhere:
        redirect = answering(b"", "307 Temporary Redirect", f"location: {elsewhere}/\r\n")
        async with serving(redirect) as url:
            chosen = settings(url)
            async with Dashboard(chosen.clusters[0], chosen) as dashboard:
                for what in PATHS:
                    with pytest.raises(AskingError, match="points elsewhere"):
                        await dashboard.get(what, job="a")
    assert strangers == []


async def test_only_get_and_only_known_paths_are_asked_for(tmp_path: Path) -> None:
    heads: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        path = head.split(" ")[1]
        body = [{"submission_id": "a/b", "status": "RUNNING", "start_time": 1_790_000_000_000}]
        await answering(json.dumps(body if path == "/api/jobs/" else {}).encode())(head, writer)

    async with serving(keep) as url:
        chosen = settings(url)
        source = RaySource(chosen.clusters[0], chosen, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: len(heads) > 20)
    assert {it.split(" ")[0] for it in heads} == {"GET"}
    asked = {it.split(" ")[1].partition("?")[0].lstrip("/") for it in heads}
    assert asked <= set(PATHS.values())
    assert all("authorization: bearer t0ken-word" in it.lower() for it in heads)
    assert not any("mozilla" in it.lower() for it in heads)


def having(known: dict[str, bytes], statuses: dict[str, str], asked: list[str]) -> Handler:
    """Answers the paths that are known, with a status of their own where there is one; `asked` is
    what was asked for."""

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1].partition("?")[0]
        asked.append(path)
        status = statuses.get(path, "200 OK" if path in known else "404 Not Found")
        await answering(known.get(path, b"no"), status)(head, writer)

    return answer


SERVE = "/api/serve/applications/"


async def test_a_ray_that_lacks_parts_is_up_all_the_same(tmp_path: Path) -> None:
    """As Ray 2.2 without Serve answers: no State API for nodes, and 501 for applications."""
    asked: list[str] = []
    known = {
        "/api/jobs/": b"[]",
        "/api/version": b'{"version": "4", "ray_version": "2.2.0"}',
        "/nodes": json.dumps(
            {"result": True, "data": {"summary": [
                {"hostname": "old", "raylet": {"nodeId": "a" * 56, "state": "ALIVE"}}]}}
        ).encode(),
    }  # fmt: skip
    async with serving(having(known, {SERVE: "501 Not Implemented"}, asked)) as url:
        chosen = settings(url)
        source = RaySource(chosen.clusters[0], chosen, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: asked.count("/api/version") > 3)
            assert run.resources["c0"].status == "up"
            assert run.resources["c0"].state["ray"] == "2.2.0"
            assert run.resources["a" * 12].state["host"] == "old"
    # What is missing is not asked for every time.
    assert asked.count(SERVE) == 1


async def test_one_look_at_serve_that_fails_takes_no_application_away(tmp_path: Path) -> None:
    asked: list[str] = []
    statuses = {SERVE: "200 OK"}
    known = {
        "/api/jobs/": b"[]",
        "/api/version": b'{"version": "4", "ray_version": "2.60.0"}',
        SERVE: b'{"applications": {"chat": {"status": "RUNNING"}}}',
    }
    async with serving(having(known, statuses, asked)) as url:
        chosen = settings(url)
        source = RaySource(chosen.clusters[0], chosen, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: "chat" in run.resources)
            statuses[SERVE] = "500 Internal Server Error"
            await run.until(lambda: "serve" in str(run.resources["c0"].state))
            looks = asked.count(SERVE)
            await run.until(lambda: asked.count(SERVE) > looks + 1)
            assert "chat" in run.resources
            statuses[SERVE] = "404 Not Found"
            await run.until(lambda: "chat" not in run.resources)


async def test_a_certificate_is_checked_against_the_authority_of_the_cluster(
    tmp_path: Path,
) -> None:
    tls = certificate(tmp_path, days=5)
    async with serving(answering(b"[]"), tls) as url:
        stranger = RaySettings(clusters=[ClusterSettings(name="a", url=url)])
        async with Dashboard(stranger.clusters[0], stranger) as dashboard:
            with pytest.raises(AskingError, match="its certificate is not valid: self-signed"):
                await dashboard.get("jobs")
        known = ClusterSettings(name="a", url=url, ca=tmp_path / "cert.pem")
        async with Dashboard(known, stranger) as dashboard:
            assert await dashboard.get("jobs") == b"[]"


async def test_a_list_of_jobs_beyond_the_limit_becomes_the_unfinished_ones_and_how_they_ended(
    tmp_path: Path,
) -> None:
    status = "RUNNING"

    def job() -> dict[str, Any]:
        ended = 1_790_000_060_000 if status == "FAILED" else None
        return {"submission_id": "a", "status": status, "start_time": 1_790_000_000_000,
                "end_time": ended, "message": "Job failed."}  # fmt: skip

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        if path == "/api/jobs/":
            body = b"[" + b" " * 200_000 + b"]"
        elif path.startswith("/api/v0/jobs?"):
            rows = [job()] if f"filter_values={status}" in path else []
            body = json.dumps({"result": True, "data": {"result": {"result": rows}}}).encode()
        elif path == "/api/jobs/a":
            body = json.dumps(job()).encode()
        else:
            body = b"{}"
        await answering(body)(head, writer)

    async with serving(answer) as url:
        chosen = settings(url, body_limit=100_000)
        async with Dashboard(chosen.clusters[0], chosen) as dashboard:
            with pytest.raises(TooLongError):
                await dashboard.get("jobs")
        source = RaySource(chosen.clusters[0], chosen, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: any(it.type == "ray.job.running" for it in run.events))
            status = "FAILED"
            await run.until(lambda: any(it.type == "ray.job.failed" for it in run.events))
            assert run.resources["c0"].status == "partial"
            assert "short may be missed" in run.resources["c0"].state["reason"]


class Together:
    """Sources side by side on one event loop; the product gives each its own."""

    def __init__(self, settings: RaySettings, context: MemoryContext) -> None:
        self.sources = [RaySource(it, settings, context) for it in settings.clusters]

    async def run(self, publish: Publish, report: SourceReport) -> None:
        async with asyncio.TaskGroup() as group:
            for source in self.sources:
                group.create_task(source.run(publish, report))


async def test_of_ten_clusters_three_dead_or_hanging_delay_none_of_the_others(
    tmp_path: Path,
) -> None:
    """The paces and limits are those of the product; only the simulated jobs come quicker."""
    ports = [free_port() for _ in range(7)]
    async with contextlib.AsyncExitStack() as stack:
        clusters = []
        for number, port in enumerate(ports):
            clusters.append(await stack.enter_async_context(apart(simulated(port, seed=number))))
        hanging = await stack.enter_async_context(serving(silent))
        never_ending = await stack.enter_async_context(serving(endless))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        urls += [hanging, never_ending, f"http://127.0.0.1:{free_port()}"]
        chosen = RaySettings(
            clusters=[ClusterSettings(name=f"c{at}", url=url) for at, url in enumerate(urls)]
        )
        run = await stack.enter_async_context(SourceRun(Together(chosen, MemoryContext(tmp_path))))
        clock = asyncio.get_running_loop().time
        await run.until(lambda: all(f"c{at}" in run.resources for at in range(10)), patience=15)
        # From here on each job that begins on a good cluster is told of in time.
        worst = 0.0
        for at, cluster in enumerate(clusters):
            cluster.next = cluster.clock()
            cluster.advance()
            name, began = cluster.jobs[-1].name, clock()

            def told(name: str = name, source: str = f"ray/c{at}") -> bool:
                return any(
                    it.subject == name and it.source == source
                    for it in run.bus.signals
                    if isinstance(it, Event)
                )

            await run.until(told, patience=10)
            worst = max(worst, clock() - began)
        states = {name: run.resources[name].status for name in (f"c{at}" for at in range(10))}
        assert {states[f"c{at}"] for at in range(7)} == {"up"}
        assert {states[f"c{at}"] for at in range(7, 10)} <= {"stale", "down"}
        print(f"the slowest submission was told after {worst:.2f} s")


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"name": "a b", "url": "http://x"}, "name of a cluster must be letters"),
        ({"name": "a", "url": "ftp://x"}, "must start with http:// or https://"),
        (
            {"name": "a", "url": "http://u:secret-word@x"},
            "must not contain a user name or password",
        ),
        ({"name": "a", "url": "http://x", "token": {"env": "NOT_SET"}}, "NOT_SET is not set"),
        ({"name": "a", "url": "http://x", "tokn": "b"}, "token"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(tree: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        decode_settings(RaySettings, {"clusters": [tree]}, place="plugins.ray")
    assert told in str(refused.value)
    assert "secret-word" not in str(refused.value)


def test_two_clusters_of_one_name_are_refused() -> None:
    tree = {"clusters": [{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}]}
    with pytest.raises(ConfigError, match="two named 'a'"):
        decode_settings(RaySettings, tree, place="plugins.ray")
