"""Alerts and notifications while the system clock jumps by an hour, and back."""

from pathlib import Path

import pytest

from support.alert_scenarios import Host, Scenario, Stage, play_all, scenario
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import HttpReceiver, SmtpReceiver
from support.wrong_clock import ClockFile

pytestmark = pytest.mark.anyio
JUMPS: dict[str, Scenario] = {}
HOUR = 3600.0


async def jump(stage: Stage, clock: ClockFile, seconds: float) -> None:
    clock.set(seconds)
    await stage.elapse(0.2)


@scenario(into=JUMPS, rules=[{}, {"part": "slow", "for": 1.0}], group_by=["name"])
async def every_change_arrives_once(stage: Stage) -> None:
    clock = ClockFile(stage.host.lab.plugins_dir.parent)
    await stage.fail("before")
    for _ in range(2):
        assert set((await stage.next()).names) == {"before"}
    for number, offset in enumerate((HOUR, 0.0, -HOUR, 0.0)):
        await jump(stage, clock, offset)
        name = f"a-{number}"
        await stage.fail(name)
        seen = []
        while len(seen) < 2:
            message = await stage.next()
            seen += [alert["rule"] for alert in message.alerts if name in message.names]
        await stage.recover(name)
        while (await stage.next()).names != {name: "resolved"}:
            pass
        assert (await stage.statuses(name)).count("resolved") == 1
    await stage.recover("before")
    while (await stage.next()).names != {"before": "resolved"}:
        pass


async def test_clock_that_jumps_loses_no_notification(tmp_path: Path) -> None:
    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        almenara = Almenara(tmp_path / "almenara", config=host.configure(list(JUMPS.values())))
        almenara.serve = ClockFile(tmp_path).serve(almenara.program)
        with host.use(almenara):
            await play_all(host, JUMPS)
