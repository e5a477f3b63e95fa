"""Samples of a bus are sent to a receiver: nothing is lost, and what is refused is reported."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.schema import TABLES
from almenara.config import RemoteWriteSettings, Settings, StorageSettings
from almenara.config.loader import decode_settings
from almenara.remote_write.service import diagnose
from almenara.remote_write.source import Batch, RemoteWriteSource, read_after
from almenara.signals import Sample
from almenara.units import SECOND
from support.bus import make_events
from support.remote_write import Receiver, Row

pytestmark = pytest.mark.anyio
START = 1_790_000_000_000


class Report:
    """What the source has reported last."""

    def __init__(self) -> None:
        self.problem, self.problems, self.dropped = "", [""], 0

    def degraded(self, reason: str) -> None:
        self.problem = reason
        self.problems.append(reason)

    def recovered(self) -> None:
        self.problem = ""

    def lag(self, messages: int) -> None: ...

    def rejected(self, count: int = 1) -> None:
        self.dropped += count


def make_samples(first: int, count: int) -> list[Sample]:
    return [
        Sample(kind="k", name=f"s{number % 3}", metric="test.count", value=number,
               time=(START + number) * 1000)
        for number in range(first, first + count)
    ]  # fmt: skip


def values(rows: list[Row]) -> list[float]:
    return sorted(value for _, _, value in rows)


@pytest.fixture
def receiver() -> Any:
    server = Receiver().start()
    yield server
    server.stop()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[EmbeddedBus]:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        yield bus


def settings_of(receiver: Receiver, **fields: Any) -> RemoteWriteSettings:
    tree = {"url": receiver.url, "metrics": ["test.*"], **fields}
    return decode_settings(RemoteWriteSettings, tree, place="remote_write")


@contextlib.asynccontextmanager
async def sending(
    bus: EmbeddedBus, settings: RemoteWriteSettings, age: float = 7_200
) -> AsyncIterator[Report]:
    report = Report()
    source = RemoteWriteSource(settings, bus, age)

    async def publish(batch: Any, changes: Any) -> None:
        await bus.publish(batch, source.name, changes)

    with (
        patch("almenara.remote_write.source.POLL_INTERVAL", 0.01),
        patch("almenara.remote_write.source.BACKOFF_FIRST", 0.01),
    ):
        task = asyncio.create_task(source.run(publish, report))
        try:
            yield report
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_samples_arrive_once_with_labels(bus: EmbeddedBus, receiver: Receiver) -> None:
    await bus.publish(make_samples(0, 5), "before")
    async with sending(bus, settings_of(receiver, labels={"cluster": "eu"})) as report:
        await bus.publish(make_events(0, 10), "x")
        await bus.publish([*make_samples(5, 4_500), *make_events(10, 5)], "x")
        other = Sample(kind="k", name="n", metric="other", value=1)
        await bus.publish([other], "x")
        await until(lambda: len(receiver.rows) >= 4_500)
    # It starts with what is published after its first start.
    assert values(receiver.rows) == list(range(5, 4_505))
    (labels, time, value), *_ = receiver.rows
    assert dict(labels) == {
        "__name__": "test_count", "cluster": "eu", "kind": "k", "origin": "x",
        "name": f"s{int(value) % 3}",
    }  # fmt: skip
    assert time == START + value
    assert report.problems == [""]
    headers = receiver.requests[0]
    assert headers["content-encoding"] == "snappy"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-prometheus-remote-write-version"] == "0.1.0"


async def test_unavailable_receiver_gets_everything_later(
    bus: EmbeddedBus, receiver: Receiver
) -> None:
    answers = [(503, {}), (429, {"retry-after": "0"}), (401, {}), (500, {"retry-after": "x"}),
               (302, {"location": "https://elsewhere"})]  # fmt: skip
    receiver.answer = lambda rows: answers.pop(0) if answers else (204, {})
    async with sending(bus, settings_of(receiver)) as report:
        await bus.publish(make_samples(0, 100), "x")
        await until(lambda: len(receiver.rows) >= 100)
        await until(lambda: not report.problem)
        # Nothing listens for a while, and a restart in between forgets nothing.
        receiver.stop()
        await bus.publish(make_samples(100, 100), "x")
        await until(lambda: "connection" in report.problem)
    receiver.start()
    async with sending(bus, settings_of(receiver)):
        await until(lambda: len(receiver.rows) >= 200)
    assert values(receiver.rows) == list(range(200))
    assert report.dropped == 0
    reported = " ".join(report.problems)
    assert "status 503: answer \u00b7[31mof the receiver" in reported
    assert "status 401" in reported
    assert "it redirects to https://elsewhere" in reported


async def test_retry_after_is_waited_for(bus: EmbeddedBus, receiver: Receiver) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0.01)

    answers = [(503, {"retry-after": "600"}), (429, {"retry-after": "999999"})]
    receiver.answer = lambda rows: answers.pop(0) if answers else (204, {})
    with patch("almenara.remote_write.source.sleep", note):
        async with sending(bus, settings_of(receiver)):
            await bus.publish(make_samples(0, 1), "x")
            await until(lambda: len(receiver.rows) == 1)
    assert [wait for wait in waits if wait > 60] == [600, 3_600]


async def test_refused_samples_are_dropped_alone_and_reported(
    bus: EmbeddedBus, receiver: Receiver
) -> None:
    receiver.answer = lambda rows: (400 if 700.0 in values(rows) else 204, {})
    async with sending(bus, settings_of(receiver)) as report:
        await bus.publish(make_samples(0, 1_000), "x")
        await until(lambda: len(receiver.rows) >= 999)
        await until(lambda: report.dropped == 1)
    assert values(receiver.rows) == [number for number in range(1_000) if number != 700]
    assert "1 samples were refused by the receiver and dropped" in report.problem
    assert "status 400: answer" in report.problem


async def test_wrong_requests_are_not_divided_without_end(
    bus: EmbeddedBus, receiver: Receiver
) -> None:
    receiver.answer = lambda rows: (400, {})
    async with sending(bus, settings_of(receiver)) as report:
        await bus.publish(make_samples(0, 1_000), "x")
        await until(lambda: report.dropped == 1_000)
    assert len(receiver.requests) <= 61


def test_loss_is_the_time_that_was_deleted_before_it_was_read() -> None:
    log = sqlite3.connect(":memory:")
    log.executescript(TABLES)
    log.executemany(
        "INSERT INTO clock VALUES (?, ?)", [(second * SECOND, second) for second in range(1, 101)]
    )
    for cursor, age, lost in ((100, 30, 0), (70, 30, 0), (60, 30, 9), (0, 200, 0), (0, 30, 69)):
        assert read_after(cursor, age * SECOND)(log).lost == lost
    log.close()


async def test_loss_is_reported(bus: EmbeddedBus, receiver: Receiver) -> None:
    lost = Batch([], None, 90.0)
    with patch("almenara.remote_write.source.read_after", lambda *_: lambda connection: lost):
        async with sending(bus, settings_of(receiver)) as report:
            await bus.publish(make_samples(0, 1), "x")
            await until(lambda: "samples of 90 s were deleted" in report.problem)


async def test_secrets_are_sent_and_not_shown(
    bus: EmbeddedBus, receiver: Receiver, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first-token")
    headers = {"X-Scope-OrgID": "tenant-7"}
    settings = settings_of(receiver, bearer={"file": str(token)}, headers=headers)
    receiver.answer = lambda rows: (
        204 if receiver.requests[-1]["authorization"] == "Bearer second-token" else 403, {}
    )  # fmt: skip
    async with sending(bus, settings) as report:
        await bus.publish(make_samples(0, 10), "x")
        await until(lambda: "status 403" in report.problem)
        # A token that is replaced takes effect without a restart.
        token.write_text("second-token")
        await until(lambda: len(receiver.rows) == 10)
    assert receiver.requests[0]["x-scope-orgid"] == "tenant-7"
    assert "token" not in " ".join(report.problems)
    basic = settings_of(receiver, username="u", password="secret")
    receiver.answer = lambda rows: (204, {})
    (finding,) = await diagnose(_with(basic))
    assert finding.verdict == "ok"
    assert receiver.requests[-1]["authorization"] == "Basic dTpzZWNyZXQ="
    receiver.answer = lambda rows: (404, {})
    (finding,) = await diagnose(_with(basic))
    assert (finding.verdict, finding.check) == ("failed", "remote write (remote-write)")
    assert "status 404" in finding.message


def _with(receiver: RemoteWriteSettings) -> Settings:
    settings = Settings()
    settings.samples.remote_write = [receiver]
    return settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://x"}, "must start with http://"),
        ({"url": "http://u:p@x"}, "use bearer, or username and password"),
        ({"username": "u"}, "set both"),
        ({"labels": {"name": "x"}}, "cannot add the label 'name'"),
        ({"labels": {"a-b": "x"}}, "cannot add the label 'a-b'"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        decode_settings(RemoteWriteSettings, {"url": "http://x", **fields}, place="x")
