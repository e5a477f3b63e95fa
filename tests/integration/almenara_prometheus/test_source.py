"""The Prometheus plugin against a real exposition of prometheus_client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from almenara.config import Secret
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara.testing.source_run import MemoryBus, MemoryContext
from almenara_prometheus.doctor import diagnose
from almenara_prometheus.settings import MetricSettings, PrometheusSettings, TargetSettings
from almenara_prometheus.source import PrometheusSource

pytestmark = pytest.mark.anyio


class SourceHarness(MemoryContext):
    """A context and a report in memory."""

    def __init__(self, bus: MemoryBus | None = None) -> None:
        super().__init__(Path("unused"), bus)
        self.signals: list[Signal] = []

    async def publish(self, batch: Sequence[Signal]) -> None:
        self.bus.accept(batch, "prometheus")
        self.signals += batch

    def recovered(self) -> None: ...

    @contextlib.asynccontextmanager
    async def running(self, *targets: TargetSettings) -> AsyncIterator[None]:
        source = PrometheusSource(PrometheusSettings(targets=list(targets)), self)
        task = asyncio.create_task(source.run(self.publish, self))  # type: ignore[arg-type]
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def until(self, condition: object) -> None:
        async with asyncio.timeout(10):
            while not any(condition(signal) for signal in self.signals):  # type: ignore[operator]
                await asyncio.sleep(0.02)

    def events(self) -> list[Event]:
        return [signal for signal in self.signals if isinstance(signal, Event)]

    def sampled(self, kind: str) -> set[str]:
        """The names of the resources of a kind that have samples."""
        samples = [signal for signal in self.signals if isinstance(signal, Sample)]
        return {sample.name for sample in samples if sample.kind == kind}

    def last(self, name: str) -> Resource:
        resources = [signal for signal in self.signals if isinstance(signal, Resource)]
        return [resource for resource in resources if resource.name == name][-1]


def is_sample(signal: Signal, metric: str, above: float = -1.0) -> bool:
    return isinstance(signal, Sample) and signal.metric == metric and signal.value > above


def is_resource(signal: Signal, **fields: object) -> bool:
    return isinstance(signal, Resource) and all(
        getattr(signal, name) == value for name, value in fields.items()
    )


ROUTE = MetricSettings(metric="hits_total", sample="hits", kind="route", name="{route}", rate=True)
DEPTH = MetricSettings(metric="depth", sample="depth", kind="queue", name="{queue}")


def target(port: int, *mappings: MetricSettings, **settings: object) -> TargetSettings:
    return TargetSettings(
        name="it", url=f"http://127.0.0.1:{port}/metrics", every=0.05, timeout=1.0,
        metrics=list(mappings), **settings,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_page_becomes_samples_and_its_loss_an_event() -> None:
    registry = CollectorRegistry()
    hits = Counter("hits", "Hits.", ["route"], registry=registry)
    Gauge("depth", "Depth.", ["queue"], registry=registry).labels("a").set(4)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    run = SourceHarness()
    async with run.running(target(server.server_port, ROUTE, DEPTH)):
        hits.labels("/x").inc(10)
        await run.until(
            lambda signal: (
                isinstance(signal, Sample) and signal.metric == "depth" and signal.value == 4
            )
        )
        hits.labels("/x").inc(10)
        await run.until(
            lambda signal: (
                isinstance(signal, Sample) and signal.metric == "hits" and signal.value > 0
            )
        )
        assert (run.last("a").kind, run.last("a").namespace) == ("queue", "it")
        assert run.last("it").status == "up"
        assert run.events() == []
        server.shutdown()
        server.server_close()
        thread.join()
        await run.until(lambda signal: isinstance(signal, Event))
    (down,) = run.events()
    assert (down.type, down.subject) == ("prometheus.target.down", "it")
    again = SourceHarness()
    again.values = run.values
    async with again.running(target(server.server_port, ROUTE)):
        await again.until(lambda signal: isinstance(signal, Resource) and signal.status == "down")
    assert again.events() == []


async def test_series_limit_is_applied_and_reported() -> None:
    registry = CollectorRegistry()
    depth = Gauge("depth", "Depth.", ["queue"], registry=registry)
    for number in range(30):
        depth.labels(f"q{number:02}").set(number)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    run = SourceHarness()
    async with run.running(target(server.server_port, DEPTH, series_limit=10)):
        await run.until(lambda signal: isinstance(signal, Resource) and signal.status == "partial")
        # A resource that sorts before them displaces the last one, which is deleted.
        depth.labels("a").set(1)
        await run.until(
            lambda signal: isinstance(signal, Resource) and signal.name == "q09" and signal.deleted
        )
        names = {
            signal.name
            for signal in run.signals
            if isinstance(signal, Sample) and signal.kind == "queue"
        }
        assert "q10" not in names
        run.signals = [signal for signal in run.signals if not isinstance(signal, Sample)]
        await run.until(lambda signal: isinstance(signal, Sample) and signal.name == "q08")
    assert "31 resources, of which 10 are used (series_limit)" in run.last("it").state["reason"]
    assert (
        len(
            {
                signal.name
                for signal in run.signals
                if isinstance(signal, Sample) and signal.kind == "queue"
            }
        )
        == 10
    )
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 500 Bad\r\ncontent-length: 0\r\n\r\n", "it answers 500, expected 200"),
        (b"HTTP/1.1 302 There\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "it answers 302"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{nonsense", "1 lines of its page cannot"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"a 1\n" * 500, "longer than 1,000"),
        (b"", "Server disconnected"),
        (None, "no complete page within 1 s"),
    ],
)
async def test_failed_scrape_is_reported_with_the_reason(answer: bytes | None, reason: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    run = SourceHarness()
    settings = target(port, DEPTH, body_limit=1000, bearer=Secret.of("b3arer-word"))
    settings.url += "?key=qu3ry-word"
    async with run.running(settings):
        await run.until(lambda signal: isinstance(signal, Event))
    (finding,) = await diagnose(PrometheusSettings(targets=[settings]))
    server.close()
    assert reason in run.last("it").state["reason"]
    assert finding.verdict in ("failed", "warning")
    assert "b3arer-word" not in f"{run.signals} {finding} {settings}"
    assert "qu3ry-word" not in f"{run.signals} {finding}"


@contextlib.contextmanager
def exposing(registry: CollectorRegistry) -> Iterator[int]:
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_failure_of_one_target_is_reported_and_delays_no_other(
    tmp_path: Path,
) -> None:
    word = tmp_path / "word"
    word.write_text("a-token")
    missing = Secret.parse({"file": str(word)})
    word.unlink()
    registry = CollectorRegistry()
    Gauge("depth", "Depth.", ["queue"], registry=registry).labels("a").set(4)
    run = SourceHarness()
    with exposing(registry) as port:
        async with run.running(
            *(
                msgspec.structs.replace(target(port, DEPTH, **settings), name=name)
                for name, settings in {
                    "no-secret": {"bearer": missing},
                    "no-header": {"headers": {"x-key": missing}},
                    "no-ca": {"ca": tmp_path / "ca.crt"},
                    "control": {"bearer": Secret.of("w0rd-of-a\nsecret")},
                    "letters": {"bearer": Secret.of("Schlüssel-€")},
                    "good": {},
                }.items()
            )
        ):
            for name, status, reason in (
                ("no-secret", "down", f"the file {word} cannot be read"),
                ("no-header", "down", f"the file {word} cannot be read"),
                ("no-ca", "down", f"the file {tmp_path / 'ca.crt'} (ca) cannot be read"),
                ("control", "down", "***"),
                ("letters", "up", ""),
                ("good", "up", ""),
            ):
                await run.until(
                    lambda signal, n=name: isinstance(signal, Resource) and signal.name == n
                )
                resource = run.last(name)
                assert resource.status == status, resource
                assert reason in (resource.state["reason"] or ""), resource
            # It is scraped as soon as its file exists.
            word.write_text("a-token\n")
            await run.until(lambda _: run.last("no-secret").status == "up")
    assert "w0rd-of-a" not in str(run.signals)


async def test_what_left_the_settings_or_the_page_while_stopped_is_deleted() -> None:
    lane = MetricSettings(metric="lanes", sample="lanes", kind="lane", name="{queue}")
    registry = CollectorRegistry()
    depth = Gauge("depth", "Depth.", ["queue"], registry=registry)
    lanes = Gauge("lanes", "Lanes.", ["queue"], registry=registry)
    for queue in ("a", "b"):
        depth.labels(queue).set(1)
        lanes.labels(queue).set(1)
    first = SourceHarness()
    with exposing(registry) as port:
        settings = target(port, DEPTH, lane)
        async with first.running(settings, msgspec.structs.replace(settings, name="other")):
            for name in ("it", "other"):
                for kind in ("queue", "lane"):
                    key = (kind, name, "b")
                    await first.until(
                        lambda signal, key=key: isinstance(signal, Resource) and signal.key == key
                    )
        # Of the name b, the one kind goes and the other stays.
        depth.remove("b")
        again = SourceHarness(first.bus)
        async with again.running(settings):
            await again.until(
                lambda signal: (
                    isinstance(signal, Resource)
                    and signal.key == ("queue", "it", "b")
                    and signal.deleted
                )
            )
        assert sorted(await again.known_resources("prometheus")) == [
            ("lane", "it", "a"), ("lane", "it", "b"),
            ("prometheus.target", "", "it"), ("queue", "it", "a"),
        ]  # fmt: skip


Reply = Callable[[], bytes]


@contextlib.asynccontextmanager
async def answering(reply: Reply) -> AsyncIterator[int]:
    """A server on the wire that answers each request with `reply`; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def response(body: bytes, content_type: str = "text/plain; version=0.0.4") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return f"{head}\r\nconnection: close\r\n\r\n".encode() + body


METRICS = b'depth{queue="a"} 4\n'


async def test_resources_of_a_dead_target_become_unknown_and_recover() -> None:
    replies = [response(METRICS)]
    run = SourceHarness()
    async with answering(lambda: replies[-1]) as port, run.running(target(port, DEPTH)):
        await run.until(lambda signal: is_resource(signal, name="a", status="scraped"))
        replies.append(b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n")
        await run.until(lambda signal: is_resource(signal, name="a", status="unknown"))
        unknown = run.last("a")
        assert unknown.severity is Severity.WARN
        assert unknown.state["stale_since"] > 0
        assert "it is down" in unknown.state["reason"]
        run.signals.clear()
        replies.append(response(METRICS))
        await run.until(lambda signal: is_resource(signal, name="a", status="scraped"))
    assert not any(isinstance(signal, Resource) and signal.deleted for signal in run.signals)


async def test_target_down_at_the_start_makes_known_resources_unknown() -> None:
    first = SourceHarness()
    async with answering(lambda: response(METRICS)) as port, first.running(target(port, DEPTH)):
        await first.until(lambda signal: is_resource(signal, name="a"))
    again = SourceHarness(first.bus)
    async with again.running(target(port, DEPTH)):
        await again.until(lambda signal: is_resource(signal, name="a", status="unknown"))


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"<html>Sign in</html>", "text/html", "it sends text/html"),
        (b'{"error": "unauthorized"}', "application/json", "it sends application/json"),
        (METRICS, "application/vnd.google.protobuf; proto=x", "vnd.google.protobuf"),
        (b"<html>\n<body>Sign in</body>\n", "text/plain", "2 lines of its page cannot be read"),
        (b"# nothing here\n", "text/plain", "its page has no series"),
    ],
)
async def test_page_without_metrics_is_down_and_keeps_the_resources(
    body: bytes, content_type: str, reason: str
) -> None:
    replies = [response(METRICS)]
    run = SourceHarness()
    async with answering(lambda: replies[-1]) as port, run.running(target(port, DEPTH)):
        await run.until(lambda signal: is_resource(signal, name="a", status="scraped"))
        replies.append(response(body, content_type))
        await run.until(lambda signal: is_resource(signal, name="it", status="down"))
    assert reason in run.last("it").state["reason"]
    assert run.last("a").status == "unknown"


async def test_page_of_other_metrics_deletes_resources_and_stays_up() -> None:
    replies = [response(METRICS)]
    run = SourceHarness()
    async with answering(lambda: replies[-1]) as port, run.running(target(port, DEPTH)):
        await run.until(lambda signal: is_resource(signal, name="a", status="scraped"))
        replies.append(response(b"other 1\n"))
        await run.until(lambda signal: is_resource(signal, name="a", deleted=True))
    assert run.last("it").status == "up"
