"""The Prometheus plugin against a real exposition of prometheus_client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from almenara.config import Secret
from almenara.signals import Event, Resource, Sample, Signal
from almenara.testing.source_run import MemoryBus, MemoryContext
from almenara_prometheus.settings import MetricSettings, PrometheusSettings, TargetSettings
from almenara_prometheus.source import PrometheusSource, diagnose

pytestmark = pytest.mark.anyio


class Kept(MemoryContext):
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

    async def until(self, wanted: object) -> None:
        async with asyncio.timeout(10):
            while not any(wanted(it) for it in self.signals):  # type: ignore[operator]
                await asyncio.sleep(0.02)

    def events(self) -> list[Event]:
        return [it for it in self.signals if isinstance(it, Event)]

    def last(self, name: str) -> Resource:
        return [it for it in self.signals if isinstance(it, Resource) and it.name == name][-1]


ROUTE = MetricSettings(metric="hits_total", sample="hits", kind="route", name="{route}", rate=True)
DEPTH = MetricSettings(metric="depth", sample="depth", kind="queue", name="{queue}")


def target(port: int, *mappings: MetricSettings, **settings: object) -> TargetSettings:
    return TargetSettings(
        name="it", url=f"http://127.0.0.1:{port}/metrics", every=0.05, timeout=1.0,
        metrics=list(mappings), **settings,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_a_real_page_becomes_samples_of_resources_and_its_loss_an_event() -> None:
    registry = CollectorRegistry()
    hits = Counter("hits", "Hits.", ["route"], registry=registry)
    Gauge("depth", "Depth.", ["queue"], registry=registry).labels("a").set(4)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    it = Kept()
    async with it.running(target(server.server_port, ROUTE, DEPTH)):
        hits.labels("/x").inc(10)
        await it.until(lambda s: isinstance(s, Sample) and s.metric == "depth" and s.value == 4)
        hits.labels("/x").inc(10)
        await it.until(lambda s: isinstance(s, Sample) and s.metric == "hits" and s.value > 0)
        assert (it.last("a").kind, it.last("a").namespace) == ("queue", "it")
        assert it.last("it").status == "up"
        assert it.events() == []
        server.shutdown()
        server.server_close()
        thread.join()
        await it.until(lambda s: isinstance(s, Event))
    (down,) = it.events()
    assert (down.type, down.subject) == ("prometheus.target.down", "it")
    again = Kept()
    again.values = it.values
    async with again.running(target(server.server_port, ROUTE)):
        await again.until(lambda s: isinstance(s, Resource) and s.status == "down")
    assert again.events() == []


async def test_too_many_series_are_cut_and_that_is_told() -> None:
    registry = CollectorRegistry()
    depth = Gauge("depth", "Depth.", ["queue"], registry=registry)
    for number in range(30):
        depth.labels(f"q{number:02}").set(number)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    it = Kept()
    async with it.running(target(server.server_port, DEPTH, series_limit=10)):
        await it.until(lambda s: isinstance(s, Resource) and s.status == "partial")
        # One that comes before them pushes the last one out, which is told.
        depth.labels("a").set(1)
        await it.until(lambda s: isinstance(s, Resource) and s.name == "q09" and s.deleted)
        names = {s.name for s in it.signals if isinstance(s, Sample) and s.kind == "queue"}
        assert "q10" not in names
        it.signals = [s for s in it.signals if not isinstance(s, Sample)]
        await it.until(lambda s: isinstance(s, Sample) and s.name == "q08")
    assert "31 resources, of which 10 are kept (series_limit)" in it.last("it").state["reason"]
    assert len({s.name for s in it.signals if isinstance(s, Sample) and s.kind == "queue"}) == 10
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
        (None, "no whole page within 1 s"),
    ],
)
async def test_a_page_that_cannot_be_had_or_read_is_told_with_the_reason(
    answer: bytes | None, reason: str
) -> None:
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
    it = Kept()
    wanted = target(port, DEPTH, body_limit=1000, bearer=Secret.of("b3arer-word"))
    async with it.running(wanted):
        await it.until(lambda s: isinstance(s, Event))
    (finding,) = await diagnose(PrometheusSettings(targets=[wanted]))
    server.close()
    assert reason in it.last("it").state["reason"]
    assert finding.verdict in ("failed", "warning")
    assert "b3arer-word" not in f"{it.signals} {finding} {wanted}"


@contextlib.contextmanager
def exposing(registry: CollectorRegistry) -> Iterator[int]:
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_what_is_wrong_with_one_target_is_told_of_it_and_holds_up_no_other(
    tmp_path: Path,
) -> None:
    word = tmp_path / "word"
    word.write_text("a-token")
    missing = Secret.parse({"file": str(word)})
    word.unlink()
    registry = CollectorRegistry()
    Gauge("depth", "Depth.", ["queue"], registry=registry).labels("a").set(4)
    it = Kept()
    with exposing(registry) as port:
        async with it.running(
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
                await it.until(lambda s, n=name: isinstance(s, Resource) and s.name == n)
                told = it.last(name)
                assert told.status == status, told
                assert reason in (told.state["reason"] or ""), told
            # It is taken up as soon as its file is there.
            word.write_text("a-token\n")
            await it.until(lambda _: it.last("no-secret").status == "up")
    assert "w0rd-of-a" not in str(it.signals)


async def test_what_left_the_settings_or_the_page_while_away_is_told_as_gone() -> None:
    lane = MetricSettings(metric="lanes", sample="lanes", kind="lane", name="{queue}")
    registry = CollectorRegistry()
    depth = Gauge("depth", "Depth.", ["queue"], registry=registry)
    lanes = Gauge("lanes", "Lanes.", ["queue"], registry=registry)
    for queue in ("a", "b"):
        depth.labels(queue).set(1)
        lanes.labels(queue).set(1)
    first = Kept()
    with exposing(registry) as port:
        kept = target(port, DEPTH, lane)
        async with first.running(kept, msgspec.structs.replace(kept, name="other")):
            for name in ("it", "other"):
                for kind in ("queue", "lane"):
                    key = (kind, name, "b")
                    await first.until(lambda s, key=key: isinstance(s, Resource) and s.key == key)
        # Of the name b, the one kind goes and the other stays.
        depth.remove("b")
        again = Kept(first.bus)
        async with again.running(kept):
            await again.until(
                lambda s: isinstance(s, Resource) and s.key == ("queue", "it", "b") and s.deleted
            )
        assert sorted(await again.told("prometheus")) == [
            ("lane", "it", "a"), ("lane", "it", "b"),
            ("prometheus.target", "", "it"), ("queue", "it", "a"),
        ]  # fmt: skip
