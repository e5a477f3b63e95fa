import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings, SupervisorSettings
from almenara.config.model import Isolation
from almenara.hookspecs import Publish, SourceReport
from almenara.signals import Event, now
from almenara.supervisor import SourceState, Supervisor
from almenara.supervisor.state import REPORTED, decode_report, encode_report

pytestmark = pytest.mark.anyio

QUICK = SupervisorSettings(backoff=0.02, backoff_limit=0.05, backoff_jitter=0.1, stop_timeout=0.3)


class Ticking:
    """A source that publishes steadily."""

    def __init__(self, name: str = "ticking") -> None:
        self.name = name

    async def run(self, publish: Publish, report: SourceReport) -> None:
        number = 0
        while True:
            number += 1
            await publish(
                [Event(id=f"{self.name}-{number}", source=self.name, type="t", time=now())]
            )
            report.lag(3)
            await asyncio.sleep(0.005)


class Failing:
    name = "failing"

    async def run(self, publish: Publish, report: SourceReport) -> None:
        raise ConnectionError("no answer from db.example")


class FailingGroup:
    name = "group"

    async def run(self, publish: Publish, report: SourceReport) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            group.create_task(Failing().run(publish, report))


class Ending:
    name = "ending"

    async def run(self, publish: Publish, report: SourceReport) -> None:
        return


class Stubborn:
    name = "stubborn"

    async def run(self, publish: Publish, report: SourceReport) -> None:
        report.degraded("it cannot see")
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
                break


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_failing_source_is_restarted_and_others_run(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        supervisor = Supervisor(bus, QUICK)
        for source in (Failing(), Ticking(), Ending()):
            supervisor.add(source, "plugin")
        running = asyncio.create_task(supervisor.run())
        failing, ticking, ending = supervisor.states()
        await until(lambda: failing.restarts >= 3 and ending.restarts >= 3 and ticking.events > 50)
        failing, ticking, ending = supervisor.states()
        assert failing.status in ("backing_off", "starting")
        assert failing.error == "ConnectionError: no answer from db.example"
        assert failing.error_time is not None
        assert "run() returned" in (ending.error or "")
        assert (ticking.status, ticking.restarts, ticking.error) == ("running", 0, None)
        assert ticking.lag == 3
        assert ticking.rate > 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert [each.status for each in supervisor.states()] == ["stopped"] * 3


@pytest.mark.parametrize("isolation", ["task", "thread"])
async def test_source_whose_task_group_fails_is_restarted(
    tmp_path: Path, isolation: Isolation
) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        supervisor = Supervisor(bus, msgspec.structs.replace(QUICK, isolation=isolation))
        supervisor.add(FailingGroup(), "plugin")
        running = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor.states()[0].restarts >= 2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_source_that_does_not_stop_is_abandoned_in_time(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        supervisor = Supervisor(bus, QUICK)
        supervisor.add(Stubborn(), "plugin")
        running = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor.states()[0].status == "degraded")
        assert supervisor.states()[0].error == "it cannot see"
        running.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(running, return_exceptions=True)


async def test_duplicate_source_name_is_refused(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        supervisor = Supervisor(bus, QUICK)
        supervisor.add(Ticking(), "one")
        with pytest.raises(ValueError, match="source names must be unique"):
            supervisor.add(Ticking(), "two")


@pytest.mark.parametrize("origin", ["almenara", "almenara.alerting", "almenara/notifications"])
async def test_source_cannot_publish_under_an_origin_of_the_core(
    tmp_path: Path, origin: str
) -> None:
    class Forging:
        name = "forging"

        async def run(self, publish: Publish, report: SourceReport) -> None:
            command = "almenara.alerting.silence"
            event = Event(id="1", source="x", type=command, time=now(), origin=origin)
            await publish([event])

    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        supervisor = Supervisor(bus, QUICK)
        supervisor.add(Forging(), "forging")
        running = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor.states()[0].restarts > 0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert "is reserved for Almenara" in str(supervisor.states()[0].error)
        assert bus.last_sequence == 0


async def test_source_cannot_have_a_name_of_the_core(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        supervisor = Supervisor(bus, QUICK)
        with pytest.raises(ValueError, match="reserved"):
            supervisor.add(Ticking("almenara.alerting"), "ticking")
        supervisor.add(Ticking("almenara-lab"), "ticking")


class StandbyLeases:
    """The leases of a replica that has none: another one runs all sources."""

    replica = "a"

    def __init__(self) -> None:
        self.reports: dict[str, dict[str, Any]] = {}

    def holder(self, name: str) -> str:
        return "b"

    def find_report(self, name: str) -> dict[str, Any] | None:
        return self.reports.get(name)

    async def run(
        self, name: str, work: Any, on_standby: Callable[[], None], *, is_fenced: bool = False
    ) -> None:
        on_standby()
        await asyncio.Event().wait()


async def test_source_of_another_replica_has_the_state_of_that_replica(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        leases = StandbyLeases()
        supervisor = Supervisor(bus, QUICK, leases)
        supervisor.add(Failing(), "p")
        task = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor.states()[0].status == "standby")
        (state,) = supervisor.states()
        assert state.is_unreported
        assert not state.has_problem
        failing = SourceState(
            name="failing", plugin="p", status="backing_off", error="refused", rate=2.5,
            idle_since=now() - 60_000_000, restarts=3,
        )  # fmt: skip
        leases.reports["failing"] = encode_report(failing)
        (state,) = supervisor.states()
        assert state == msgspec.structs.replace(failing, replica="b", is_reported=True)
        assert state.is_remote
        assert state.has_problem
        assert supervisor.unproven_sources() == {"failing": failing.idle_since}
        assert supervisor.list_reports() == {}
        # Of a version with other statuses, or not valid.
        for report in ({"status": "sleeping"}, {"status": 3}, {"since": "now"}):
            leases.reports["failing"] = report
            assert supervisor.states()[0].is_unreported
            assert supervisor.unproven_sources() == {}
        task.cancel()
        await asyncio.wait([task])


FIELDS = strategies.text(max_size=8) | strategies.sampled_from(REPORTED)
VALUES = strategies.none() | strategies.integers() | strategies.text()


@given(strategies.dictionaries(FIELDS, VALUES))
def test_report_of_another_replica_is_a_state_or_left_out(report: dict[str, Any]) -> None:
    local = SourceState(name="nats", plugin="nats", status="standby", replica="b")
    state = decode_report(report, local)
    assert state is None or (state.name, state.plugin, state.replica) == ("nats", "nats", "b")
