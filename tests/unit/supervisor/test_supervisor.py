import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings, SupervisorSettings
from almenara.config.model import Isolation
from almenara.hookspecs import Publish, SourceReport
from almenara.signals import Event, now
from almenara.supervisor import Supervisor

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
