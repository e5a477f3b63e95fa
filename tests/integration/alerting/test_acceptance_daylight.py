"""Acceptance of silences while the clocks of their zones change, on a clock that is advanced."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from support.alert_scenarios import SECOND, Host, Scenario, Stage, play_all, scenario
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import HttpReceiver, SmtpReceiver
from support.wrong_clock import ClockFile

pytestmark = pytest.mark.anyio
MINUTE, HOUR, DAY = 60, 3_600, 86_400


class Window(NamedTuple):
    """A window that is active around a change, in seconds after that of Madrid in spring."""

    zone: str
    start: str
    end: str
    begins: int
    ends: int


SYDNEY = 6 * DAY + 15 * HOUR
"""The change of Sydney in autumn, which is the next Sunday, at 03:00."""
WINDOWS = (
    # 02:00 becomes 03:00: the start is skipped, so it is the moment of the change.
    Window("Europe/Madrid", "02:30", "03:30", 0, 30 * MINUTE),
    # 03:00 becomes 02:00: it starts at the first 02:15, and ends at the last 02:45.
    Window("Australia/Sydney", "02:15", "02:45", SYDNEY - 45 * MINUTE, SYDNEY + 45 * MINUTE),
)


def find_spring() -> float:
    """The last change of Madrid in spring that is over: the last Sunday of March, at 01:00 UTC."""
    last = datetime(datetime.now(UTC).year - 1, 3, 31, 1, tzinfo=UTC)
    return (last - timedelta(days=(last.weekday() + 1) % 7)).timestamp()


async def test_silences_follow_the_clocks_of_their_zones(tmp_path: Path) -> None:
    spring, clock, scenarios = find_spring(), ClockFile(tmp_path), dict[str, Scenario]()

    def move_to(seconds: float) -> None:
        clock.advance(spring + seconds - time.time() - clock.wrong - clock.passed)

    clock.set(spring - HOUR - time.time())

    @scenario(into=scenarios, group_by=["name"], repeat_interval=100 * DAY)
    async def silences_follow_the_clocks(stage: Stage) -> None:
        for zone, start, end, begins, ends in WINDOWS:
            move_to(begins - MINUTE)
            await stage.fail(zone)
            assert (await stage.next()).names == {zone: "firing"}
            calendar = {"start": start, "end": end, "days": ["sun"], "zone": zone}
            await stage.silence(f"name={zone}", calendar=calendar, seconds=20 * DAY)
            move_to(begins + 1)
            await stage.alert(zone, "silenced")
            move_to(ends - MINUTE)
            await stage.fail("other")
            assert (await stage.next()).names == {"other": "firing"}
            await stage.recover("other")
            assert (await stage.next()).names == {"other": "resolved"}
            assert (await stage.alert(zone))["status"] == "silenced"
            move_to(ends + 1)
            await stage.alert(zone, "firing")
            changes = [
                (change["status"], round(change["time"] / SECOND - spring))
                for change in await stage.transitions(zone)
            ]
            assert changes[1:] == [("silenced", begins), ("firing", ends)]

    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        almenara = Almenara(tmp_path / "almenara", config=host.configure(list(scenarios.values())))
        almenara.serve = clock.serve(almenara.program)
        with host.use(almenara):
            await play_all(host, scenarios)
