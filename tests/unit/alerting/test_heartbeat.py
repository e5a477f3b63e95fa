"""The dead man's switch: requests come as long as alerts are processed, and only then."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from almenara.alerting.notifications.heartbeat import Heartbeat, check_heartbeat
from almenara.alerting.rules import compile_rules
from almenara.alerting.service import Alerting
from almenara.clock import CLOCK
from almenara.config import AlertingSettings, ConfigError, HeartbeatSettings, Secret
from almenara.testing import ManualClock
from support.notification_receivers import HttpReceiver

pytestmark = pytest.mark.anyio
PATH = "/ping/s3cret-path"


class FakeBus:
    failure: str | None = None
    write_problem: str | None = None


class FakeSupervisor:
    """Knows which sources do not work."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}

    def add(self, source: Any, plugin: str) -> None:
        """The evaluator as a source; it does not run here."""

    def unproven_sources(self) -> dict[str, int]:
        return self.failing


class FakeNotifications:
    """The state that the dispatcher reports."""

    def __init__(self) -> None:
        self.bus: Any = FakeBus()
        self.is_current = True


async def beat(url: str, state: FakeNotifications, minutes: int) -> Heartbeat:
    """Let a heartbeat run on a clock that is advanced by minutes."""
    clock = ManualClock()
    CLOCK.set(clock)
    heartbeat = Heartbeat(HeartbeatSettings(url=Secret.of(url)), state)
    task = asyncio.create_task(heartbeat.run())
    try:
        await clock.settle()
        for _ in range(minutes):
            await clock.advance(66)
    finally:
        task.cancel()
        await asyncio.wait([task])
    return heartbeat


async def test_request_is_sent_every_minute() -> None:
    with HttpReceiver() as receiver:
        await beat(f"{receiver.url}{PATH}", FakeNotifications(), 2)
        assert [request.path for request in receiver.requests] == [PATH] * 3


@pytest.mark.parametrize(
    "break_it",
    [
        lambda state: setattr(state, "is_current", False),
        lambda state: setattr(state.bus, "failure", "dead"),
        lambda state: setattr(state.bus, "write_problem", "the disk is full"),
    ],
)
async def test_request_is_not_sent_while_alerts_are_not_processed(
    break_it: Callable[[FakeNotifications], None],
) -> None:
    state = FakeNotifications()
    break_it(state)
    with HttpReceiver() as receiver:
        await beat(f"{receiver.url}{PATH}", state, 2)
        assert receiver.requests == []


async def test_request_is_not_sent_while_rules_are_not_evaluated() -> None:
    supervisor: Any = FakeSupervisor()
    bus: Any = SimpleNamespace(last_sequence=0)
    alerting = Alerting(compile_rules(AlertingSettings(), {}), bus, supervisor)
    settings = HeartbeatSettings(url=Secret.of("http://127.0.0.1:1"))
    heartbeat = Heartbeat(settings, FakeNotifications(), alerting)
    assert heartbeat.find_problem() == ""
    supervisor.failing = {"alerts": 1, "nats": 1}
    assert heartbeat.find_problem().startswith("rules are not evaluated")
    supervisor.failing = {"nats": 1}
    assert heartbeat.find_problem() == ""


async def test_failed_request_is_logged_once_without_its_address(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with HttpReceiver(lambda request: (302, {"location": "/elsewhere"}, b"")) as receiver:
        await beat(f"{receiver.url}{PATH}", FakeNotifications(), 2)
        assert len(receiver.requests) == 3
    await beat(f"http://127.0.0.1:1{PATH}", FakeNotifications(), 1)
    output = "".join(capsys.readouterr())
    assert output.count("responded with status 302") == 1
    assert PATH not in output


@pytest.mark.parametrize("url", ["example.com", "ftp://x", "https://a:b@x"])
def test_wrong_address_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"alerting\.heartbeat\.url") as error:
        check_heartbeat(HeartbeatSettings(url=Secret.of(url)))
    assert url not in str(error.value)
