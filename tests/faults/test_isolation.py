"""One bad plugin beside two healthy sources: it is named, and they keep their latency."""

import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fleet import Fleet
from support.servers import wait_until

BAD = """
import asyncio, ctypes, os, signal, time
import almenara
from almenara.signals import Event, now

class Bad:
    name = "bad"
    async def run(self, publish):
        await publish([Event(id=f"begin-{{now()}}", source="bad", type="bad.begins", time=now())])
        await asyncio.sleep({delay})
        open({marker!r}, "w").close()
{body}

@almenara.hookimpl
def almenara_sources():
    return [Bad()]
"""

DELAY = 1.5


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    started: list[Fleet] = []

    def start(body: str, *, plugin: str = "", **settings: str) -> Fleet:
        bad = plugin or BAD.format(
            delay=DELAY,
            marker=str(tmp_path / "started"),
            body=textwrap.indent(textwrap.dedent(body), " " * 8),
        )
        fleet = Fleet(tmp_path, bad, **settings)
        started.append(fleet)
        fleet.almenara.start()
        fleet.wait_for_healthy_sources()
        return fleet

    yield start
    for fleet in started:
        fleet.almenara.stop()


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (
            "import almenara\n\nprint(1 / 0)\n",
            "ZeroDivisionError: division by zero (bad.py, line 3)",
        ),
        ("import not_there_at_all\n", "No module named 'not_there_at_all'"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_sorces(): return []\n",
            "implements almenara_sorces, no such hook; did you mean almenara_sources?",
        ),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_sources(nonsense): return []\n",
            "does not keep the contract",
        ),
        (
            "ALMENARA_API_VERSION = 99\n",
            "needs version 99 of the plugin API, and Almenara 0.2.0 has version 1; install a newer",
        ),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_sources(): raise OSError('no')\n",
            "OSError: no",
        ),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_sources(): return [object()]\n",
            "must have `async def run(self, publish)`",
        ),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_settings(): return dict\n",
            "must return a subclass of msgspec.Struct",
        ),
    ],
)
def test_unusable_plugin_is_reported_and_others_run(
    tmp_path: Path, plugin: str, reason: str
) -> None:
    fleet = Fleet(tmp_path, plugin)
    try:
        fleet.almenara.start()
        wait_until(lambda: fleet.source("second").get("events", 0) > 2, "the healthy sources")
        (bad,) = [each for each in fleet.almenara.get("/api/plugins") if each["name"] == "bad"]
        assert bad["state"] == "failed"
        assert reason in bad["error"]
        assert "bad" in fleet.almenara.text("/sources")
        assert reason[:30] in fleet.almenara.log
    finally:
        fleet.almenara.stop()


def test_raising_source_is_reported_and_restarted(fleet: Callable[..., Fleet]) -> None:
    each = fleet('raise ConnectionError("no answer from db.example")')
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
    assert each.source()["error"] == "ConnectionError: no answer from db.example"
    each.assert_healthy()


def test_returning_source_is_reported_and_restarted(fleet: Callable[..., Fleet]) -> None:
    each = fleet("return")
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
    assert "run() returned" in each.source()["error"]
    each.assert_healthy()


@pytest.mark.parametrize("body", ["time.sleep(3600)", "while True: pass"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_blocking_source_is_reported_with_its_stack_and_interrupted(
    fleet: Callable[..., Fleet], body: str, isolation: str
) -> None:
    each = fleet(
        body,
        supervisor__sources=f"{{bad: {{isolation: {isolation}}}}}",
        supervisor__interrupt_after="6",
    )
    each.wait_for(lambda bad: bad["status"] == "blocked", "the status blocked")
    bad = each.source()
    assert "bad.py:" in bad["blocked"]
    assert "in run" in bad["blocked"]
    assert "a source blocks its event loop" in each.almenara.log
    each.assert_healthy()
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")


def test_flooding_source_is_throttled_and_counted(
    fleet: Callable[..., Fleet],
) -> None:
    each = fleet(
        """
        number = 0
        while True:
            await publish([
                Event(id=f"{number + i}-{now()}", source="bad", type="bad.flood", time=now())
                for i in range(1000)
            ])
            number += 1000
        """,
        # Below what the slowest machine stores, so that the limit and not the disk holds it back.
        supervisor__sources="{bad: {rate_limit: 1000, burst: 2000}}",
    )
    each.wait_for(lambda bad: bad["throttled"] > 0, "a throttled batch")
    each.assert_healthy()
    # Both requests count as elapsed, so a slow machine makes the rate lower, never higher.
    counted_from, before = time.monotonic(), each.source()["events"]
    wait_until(lambda: each.source()["events"] >= before + 5_000, "5,000 more events", 60)
    # What is left of the burst comes on top of the rate.
    assert each.source()["events"] - before < 2_000 + 1_200 * (time.monotonic() - counted_from)


def test_source_that_does_not_await_publish_is_restarted(
    fleet: Callable[..., Fleet],
) -> None:
    each = fleet(
        """
        tasks = []
        while True:
            batch = [
                Event(id=f"{i}-{now()}", source="bad", type="bad.flood", time=now())
                for i in range(2000)
            ]
            tasks.append(asyncio.ensure_future(publish(batch)))
            await asyncio.sleep(0.01)
            for task in tasks:
                if task.done():
                    task.result()
        """
    )
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
    assert "must wait for publish() to return" in each.source()["error"]
    each.assert_healthy()


def test_task_leak_is_reported_and_source_restarted(
    fleet: Callable[..., Fleet],
) -> None:
    each = fleet(
        """
        async def forgotten(): await asyncio.sleep(3600)
        kept = []
        while True:
            kept += [asyncio.ensure_future(forgotten()) for _ in range(50)]
            await asyncio.sleep(0.02)
        """
    )
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
    assert "most of them Bad.run.<locals>.forgotten" in each.source()["error"]
    each.assert_healthy()


def test_memory_leak_in_process_is_reported_and_source_restarted(
    fleet: Callable[..., Fleet],
) -> None:
    each = fleet(
        """
        kept = []
        while True:
            kept.append(bytearray(os.urandom(1024)) * 8192)
            await asyncio.sleep(0.02)
        """,
        supervisor__sources="{bad: {isolation: process, memory_limit: 300000000}}",
    )
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
    assert "MiB of memory; its limit is 286" in each.source()["error"]
    each.assert_healthy()


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("os.abort()", "was killed by SIGABRT"),
        ("os._exit(7)", "exited with code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
)
def test_crashing_process_leaves_others_running(
    fleet: Callable[..., Fleet], body: str, end: str
) -> None:
    each = fleet(body, supervisor__sources="{bad: {isolation: process}}")
    each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
    assert end in each.source()["error"]
    each.assert_healthy()
    assert each.almenara.events("?type=bad.begins")


@pytest.mark.parametrize(
    "body",
    [
        """
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
        """,
        "time.sleep(3600)",
        "await asyncio.to_thread(time.sleep, 3600)",
        "while True: pass",
    ],
)
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_source_that_does_not_stop_is_abandoned_at_shutdown(
    fleet: Callable[..., Fleet], body: str, isolation: str
) -> None:
    each = fleet(
        body,
        supervisor__sources=f"{{bad: {{isolation: {isolation}}}}}",
        supervisor__stop_timeout="1",
        server__drain_period="0",
    )
    wait_until(each.marker.exists, "the bad source at its worst", 30)
    assert each.almenara.stop() == 0
    if "to_thread" not in body:
        assert "a source does not stop" in each.almenara.log


REMEMBERING = """
import asyncio
import almenara
from almenara.signals import Event, Resource, now

class Bad:
    name = "bad"

    def __init__(self, context):
        self.context = context

    async def run(self, publish):
        known = await self.context.known_resources(self.name, "thing")
        await publish([Event(
            id=f"{now()}", source="bad", type="bad.known", time=now(),
            data=[key[2] for key in known],
        )])
        await publish([Resource(kind="thing", name=it) for it in ("a", "b")])
        await publish([
            Resource(kind="thing", name="b", deleted=True), Resource(kind="other", name="c"),
        ])
        raise RuntimeError("it ends")

@almenara.hookimpl
def almenara_sources(context):
    return [Bad(context)]
"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_restarted_source_reads_its_known_resources(tmp_path: Path, isolation: str) -> None:
    each = Fleet(tmp_path, REMEMBERING, supervisor__sources=f"{{bad: {{isolation: {isolation}}}}}")
    each.almenara.start()
    try:
        each.wait_for(lambda bad: bad["restarts"] >= 1, "a restart")
        wait_until(lambda: len(each.almenara.events("?type=bad.known")) >= 2, "two runs")
        runs = [event["data"] for event in each.almenara.events("?type=bad.known")][:2]
        assert runs == [[], ["a"]]
    finally:
        each.almenara.stop()


LOGGING = """
import asyncio
import almenara, structlog

log = structlog.get_logger()

class Bad:
    name = "bad"

    async def run(self, publish, report):
        log.debug("a debug line")
        log.warning("a warning line")
        report.recovered()
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources():
    return [Bad()]
"""


@pytest.mark.parametrize(("level", "is_shown"), [("debug", True), ("info", False)])
def test_process_logs_at_the_configured_level(tmp_path: Path, level: str, is_shown: bool) -> None:
    fleet = Fleet(
        tmp_path, LOGGING, supervisor__sources="{bad: {isolation: process}}", log__level=level
    )
    fleet.almenara.start()
    try:
        fleet.wait_for(lambda bad: bad.get("status") == "running", "the source")
        wait_until(lambda: "a warning line" in fleet.almenara.log, "the warning in the log")
        assert ("a debug line" in fleet.almenara.log) is is_shown
    finally:
        fleet.almenara.stop()
