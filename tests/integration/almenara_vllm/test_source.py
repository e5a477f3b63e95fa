"""vLLM servers as resources, samples and events, with the figures of simulated requests."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.config import Secret
from almenara.hookspecs import TemplatePanel
from almenara.signals import Severity
from almenara.testing import SourceRun, conformance
from almenara.testing.source_run import MemoryContext
from almenara_demo.simulated_vllm import SimulatedVllm
from almenara_vllm.doctor import diagnose
from almenara_vllm.kinds import ENGINE, MODEL, SERVER
from almenara_vllm.panels import list_pages, list_panels
from almenara_vllm.settings import VllmServerSettings, VllmSettings
from almenara_vllm.source import VllmSource
from support.paths import FIXTURES
from support.server_process import PatientRun
from support.servers import free_port

pytestmark = pytest.mark.anyio

Run = Callable[..., AbstractAsyncContextManager[SourceRun]]


@pytest.fixture
def server() -> Iterator[SimulatedVllm]:
    with SimulatedVllm(engines=2) as simulated:
        yield simulated


@pytest.fixture
def run(tmp_path: Path) -> Run:
    context = MemoryContext(tmp_path)

    @asynccontextmanager
    async def run_source(url: str, **options: Any) -> AsyncIterator[SourceRun]:
        plugin = {
            name: options.pop(name) for name in ("window", "saturated_after") & options.keys()
        }
        one = VllmServerSettings(name="llm", url=url, **{"every": 0.05, "timeout": 5.0, **options})
        settings = VllmSettings(servers=[one], **{"window": 60.0, "saturated_after": 0.2, **plugin})
        async with PatientRun(VllmSource(settings, context), bus=context.bus) as source:
            yield source

    return run_source


def status_of(source: SourceRun, name: str = "llm") -> str:
    resource = source.resources.get(name)
    return resource.status if resource is not None else ""


def newest(source: SourceRun, kind: str, metric: str) -> float | None:
    values = [
        sample.value for sample in source.samples if (sample.kind, sample.metric) == (kind, metric)
    ]
    return values[-1] if values else None


def count_pages(server: SimulatedVllm) -> int:
    return server.seen.count("/metrics")


async def observe_again(source: SourceRun, server: SimulatedVllm) -> None:
    """Return once a page that was requested from now on has been published."""
    pages = count_pages(server)
    await source.until(lambda: count_pages(server) >= pages + 3)


async def test_models_of_an_earlier_run_are_unknown_until_the_server_answers(
    server: SimulatedVllm, run: Run
) -> None:
    url = server.url
    async with run(url) as source:
        await source.until(lambda: status_of(source) == "idle")
        models = {each.key for each in source.resources.values() if each.kind != SERVER}
        assert {kind for kind, _, _ in models} == {MODEL, ENGINE}
    async with run(f"http://127.0.0.1:{free_port()}", timeout=1.0) as source:
        await source.until(lambda: status_of(source) == "unreachable")
        await source.until(
            lambda: (
                {each.status for each in source.resources.values() if each.kind != SERVER}
                == {"unknown"}
            )
        )
        assert {each.key for each in source.resources.values() if each.kind != SERVER} == models
    async with run(url) as source:
        await source.until(lambda: {each.status for each in source.resources.values()} == {"idle"})
    assert not any(getattr(signal, "deleted", False) for signal in source.bus.signals)


async def test_requests_in_the_api_server_are_unknown_while_they_cannot_be_read(
    server: SimulatedVllm, run: Run
) -> None:
    async with run(server.url) as source:
        server.load = 3
        await source.until(lambda: newest(source, SERVER, "load") == 3)
        server.load = "unreadable"  # type: ignore[assignment]
        await observe_again(source, server)
        published = len(source.samples)
        await observe_again(source, server)
        assert "load" not in {sample.metric for sample in list(source.samples)[published:]}
        server.load = 0
        await source.until(lambda: newest(source, SERVER, "load") == 0)


async def test_figures_are_those_of_the_requests(server: SimulatedVllm, run: Run) -> None:
    async with run(server.url) as source:
        await source.until(lambda: status_of(source) == "idle")
        server.set_load(3, 1, 0.9, engine=0)
        server.set_load(2, 0, 0.8, engine=1)
        server.load = 7
        for engine in (0, 1):
            for _ in range(5):
                server.finish(prompt=100, cached=40, generated=20, queue=0.4, engine=engine)
        server.finish(reason="length", prompt=100, cached=40, generated=20, queue=0.4)
        await source.until(lambda: newest(source, MODEL, "cache_hit_rate") is not None)
        await observe_again(source, server)
        resource = source.resources["llm"]
    assert newest(source, SERVER, "running") == 5
    assert newest(source, SERVER, "waiting") == 1
    assert newest(source, SERVER, "load") == 7
    # Shares of several engines are not added up.
    assert newest(source, SERVER, "kv_cache") == 0.9
    assert newest(source, MODEL, "cache_hit_rate") == pytest.approx(0.4)
    assert newest(source, MODEL, "queue_mean") == pytest.approx(0.4)
    assert newest(source, MODEL, "prompt_length_mean") == pytest.approx(100)
    assert 0.25 <= (newest(source, MODEL, "first_token_p95") or 0) <= 0.5
    assert (newest(source, MODEL, "finished_length") or 0) > 0
    assert {name for name in source.resources if "/" in name} == {"tiny/0", "tiny/1"}
    assert (resource.state["models"], resource.state["version"]) == ("tiny", "0.32.0")
    assert resource.state["max_model_len"] == 4096


async def test_restart_makes_no_peak_and_is_one_event(server: SimulatedVllm, run: Run) -> None:
    async with run(server.url) as source:
        await source.until(lambda: status_of(source) == "idle")
        for _ in range(10):
            server.finish(generated=100)
        await source.until(lambda: (newest(source, MODEL, "generated_tokens") or 0) > 0)
        server.reset()
        server.finish(generated=1)
        await source.until(
            lambda: any(event.type == f"{SERVER}.restarted" for event in source.events)
        )
        await observe_again(source, server)
    values = [s.value for s in source.samples if (s.kind, s.metric) == (MODEL, "generated_tokens")]
    assert min(values) >= 0
    assert [event.type for event in source.events].count(f"{SERVER}.restarted") == 1


async def test_waiting_requests_saturate_after_some_time(server: SimulatedVllm, run: Run) -> None:
    async with run(server.url) as source:
        server.set_load(8, 5, 0.5)
        await source.until(lambda: status_of(source) == "saturated")
        assert source.resources["llm"].severity is Severity.WARN
        server.set_load(8, 0, 0.5)
        await source.until(lambda: status_of(source) == "ok")
        server.set_load(0, 0, 0.0)
        await source.until(lambda: status_of(source) == "idle")
    assert [event.type for event in source.events] == [f"{SERVER}.saturated", f"{SERVER}.recovered"]


async def test_preemptions_sleep_and_errors_are_statuses(server: SimulatedVllm, run: Run) -> None:
    async with run(server.url, window=0.5) as source:
        await source.until(lambda: status_of(source) == "idle")
        server.preempt(3)
        await source.until(lambda: status_of(source) == "preempting")
        await source.until(lambda: status_of(source) == "idle")
        for _ in range(4):
            server.finish(reason="error")
        await source.until(lambda: status_of(source) == "failing")
        await source.until(lambda: status_of(source) == "idle")
        for engine in (0, 1):
            server.set_awake(False, engine=engine)
        await source.until(lambda: status_of(source) == "asleep")
        server.set_awake(True)
        await source.until(lambda: status_of(source) == "idle")
    names = [event.type.removeprefix(f"{SERVER}.") for event in source.events]
    assert names == ["preempting", "recovered", "failing", "recovered", "asleep", "awake"]


class RecordedVllm(SimulatedVllm):
    """A server that answers as a real one with a tiny model did in some state."""

    state = "idle"

    def answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        files = {
            "/metrics": f"{self.state}.txt", "/load": "load.json", "/v1/models": "models.json",
            "/version": "version.json",
        }  # fmt: skip
        if path not in files:
            return super().answer(path, authorization)
        return 200, "text/plain", (FIXTURES / "vllm-0.32" / files[path]).read_bytes()


async def test_recorded_states_of_a_real_server_are_recognized(run: Run) -> None:
    with RecordedVllm() as server:
        async with run(server.url, window=1.0) as source:
            await source.until(lambda: status_of(source) == "idle")
            resource = source.resources["llm"]
            server.state = "preempting"
            await source.until(lambda: status_of(source) == "preempting")
            await source.until(lambda: newest(source, SERVER, "running") == 5)
            assert newest(source, SERVER, "kv_cache") == 1.0
            assert newest(source, MODEL, "waiting_capacity") == 5
            server.state = "asleep"
            await source.until(lambda: status_of(source) == "asleep")
            assert newest(source, SERVER, "running") == 0
    assert newest(source, SERVER, "load") == 10
    assert (resource.state["version"], resource.state["models"]) == ("0.32.0", "tiny")
    assert resource.state["max_model_len"] == 1024


async def test_dead_engine_is_unhealthy(server: SimulatedVllm, run: Run) -> None:
    server.health = 503
    async with run(server.url) as source:
        await source.until(lambda: status_of(source) == "unhealthy")
        server.health = 404
        await source.until(lambda: status_of(source) == "idle")


async def test_stopped_server_is_unreachable_with_its_last_state(
    server: SimulatedVllm, run: Run
) -> None:
    async with run(server.url) as source:
        await source.until(lambda: status_of(source) == "idle")
        server.stop()
        await source.until(lambda: status_of(source) == "unreachable")
        assert source.resources["llm"].state["models"] == "tiny"
        assert source.resources["llm"].state["stale_since"] > 0
        # A request may have been on its way.
        await source.until(lambda: "refused" in source.resources["llm"].state["reason"])
        assert status_of(source, "tiny") == "unknown"
        assert source.is_degraded
        server.start()
        await source.until(lambda: status_of(source) == "idle")
        assert not source.is_degraded
    assert [event.type.removeprefix(f"{SERVER}.") for event in source.events] == [
        "unreachable", "recovered",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (b"<html>sign in</html>", "cannot be read"),
        (b"up 1\n", "no metric of vLLM"),
        (b"\xff\xfe\x00", "lines of its page"),
        (b"", "has no series"),
    ],
)
async def test_other_pages_are_not_taken_for_a_healthy_server(
    server: SimulatedVllm, run: Run, page: bytes, reason: str
) -> None:
    server.page = page
    async with run(server.url) as source:
        await source.until(lambda: status_of(source) == "unreachable")
    assert reason in source.resources["llm"].state["reason"]


async def test_changed_model_is_an_event(server: SimulatedVllm, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr("almenara_vllm.source.DETAILS_INTERVAL", 0.05)
    async with run(server.url) as source:
        await source.until(lambda: source.resources.get("llm") is not None)
        await source.until(lambda: source.resources["llm"].state.get("models") == "tiny")
        server.models = ["larger"]
        await source.until(lambda: source.resources["llm"].state["models"] == "larger")
    assert [event.type for event in source.events] == [f"{SERVER}.model_changed"]


async def test_key_is_sent_to_the_api_alone_and_not_shown(server: SimulatedVllm, run: Run) -> None:
    server.api_key = "secret-key"
    async with run(server.url, api_key=Secret.of("secret-key")) as source:
        await source.until(lambda: "models" in str(source.resources.get("llm")))
    with_key = {path.split()[0] for path in server.seen if "secret-key" in path}
    assert with_key == {"/v1/models"}
    assert b"secret-key" not in msgspec.json.encode(source.bus.signals)


async def test_pages_of_ray_serve_are_read(run: Run) -> None:
    with SimulatedVllm(prefix="ray_vllm_") as ray:
        async with run(f"{ray.url}/metrics", metrics_only=True) as source:
            await source.until(lambda: status_of(source) == "idle")
            ray.set_load(1, 0, 0.25)
            await source.until(lambda: newest(source, ENGINE, "kv_cache") == 0.25)
    assert set(ray.seen) == {"/metrics"}


async def test_each_address_of_a_name_is_a_server(server: SimulatedVllm, run: Run) -> None:
    url = f"http://localhost:{server.port}"
    async with run(url, resolve=True) as source:
        await source.until(lambda: status_of(source, "llm/127.0.0.1") == "idle")


async def test_doctor_reports_each_server(server: SimulatedVllm) -> None:
    servers = [
        VllmServerSettings(name="good", url=server.url),
        VllmServerSettings(name="away", url=f"http://127.0.0.1:{free_port()}"),
    ]
    good, away = await diagnose(VllmSettings(servers=servers))
    assert (good.verdict, good.message) == ("ok", "serves tiny with vLLM 0.32.0")
    assert away.verdict == "failed"
    assert away.remedy


def test_panels_of_the_page_exist() -> None:
    settings = VllmSettings()
    names = {panel.name for panel in list_panels(settings)}
    assert {panel for page in list_pages(settings) for panel in page.panels} <= names
    assert any(isinstance(panel, TemplatePanel) for panel in list_panels(settings))


@contextlib.contextmanager
def observed() -> Iterator[dict[str, Any]]:
    with SimulatedVllm() as simulated:
        simulated.set_load(1, 2, 0.95)
        yield {
            "servers": [
                {"name": "llm", "url": simulated.url, "every": 0.1, "api_key": "x"},
                {"name": "away", "url": "http://127.0.0.1:1", "every": 0.1},
            ]
        }


test_vllm_keeps_the_rules = conformance("vllm", observed)
