"""Alerts from rule to receiver over `kill -9`: every receiver gets every change, in order, and the
page agrees with the log."""

import asyncio
import os
import random
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from support.alert_scenarios import (
    PATIENCE,
    Box,
    Host,
    Receiver,
    Scenario,
    Stage,
    play_all,
    scenario,
)
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import Answer, HttpReceiver, Request, SmtpReceiver, accept
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio
KILLS = int(os.environ.get("ALMENARA_ALERT_DELIVERY_KILLS", "10"))
THINGS = [f"thing-{number}" for number in range(4)]
KILL: dict[str, Scenario] = {}


class Moody:
    """Refuses requests now and then, which have to be sent again."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def __call__(self, request: Request) -> Answer:
        if self.chance.random() < 0.25:
            return self.chance.choice(((503, {"retry-after": "0"}, b""), (0, {}, b"")))
        return accept(request)


class Kills:
    """The process under test, and what decides when it is killed."""

    def __init__(self, almenara: Almenara, chance: random.Random) -> None:
        self.almenara, self.chance = almenara, chance

    async def kill(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 0.8))
        self.almenara.kill()
        self.almenara.launch()
        await asyncio.to_thread(wait_until, self.almenara.ready, "almenara", PATIENCE)


kills: list[Kills] = []


def statuses(box: Box, name: str) -> list[str]:
    """The statuses of an alert in the order of their arrival; repeats of a delivery left out."""
    seen: list[str] = []
    for body in box.bodies:
        for alert in body["data"]["alerts"]:
            if alert["labels"]["name"] == name and seen[-1:] != [alert["status"]]:
                seen.append(alert["status"])
    return seen


def versions(box: Box) -> dict[str, list[int]]:
    """The versions of each group in the order of their arrival."""
    order: dict[str, list[int]] = defaultdict(list)
    for body in box.bodies:
        order[body["data"]["group"]].append(body["data"]["version"])
    return order


async def wait_for(stage: Stage, part: str, name: str, changes: list[str]) -> None:
    box = stage.box(part)
    await stage.until(
        lambda: statuses(box, name) == changes,
        f"{changes[-1]} of {name} at {part or 'the steady receiver'}: {statuses(box, name)}",
    )


@scenario(
    into=KILL,
    receivers={"": Receiver(), "moody": Receiver(answer=Moody(random.Random(1)))},
    routes=[{"matchers": [], "receivers": ["", "moody"]}],
    group_wait=0.1,
    group_interval=0.2,
    group_by=["name"],
)
async def every_change_arrives_in_order(stage: Stage) -> None:
    (process,) = kills
    expected: dict[str, list[str]] = {name: [] for name in THINGS}
    for number in range(KILLS):
        changing = process.chance.sample(THINGS, 2)
        is_killed_between = process.chance.random() < 0.5
        # Where Almenara does not start again, publishing would wait for it without an end.
        async with asyncio.TaskGroup() as group:
            if is_killed_between:
                group.create_task(process.kill())
            for name in changing:
                status = "resolved" if expected[name][-1:] == ["firing"] else "firing"
                expected[name].append(status)
                await publish(stage, name, "bad" if status == "firing" else "ok")
            if not is_killed_between:
                group.create_task(process.kill())
        for name in changing:
            for part in ("", "moody"):
                await wait_for(stage, part, name, expected[name])
        print("kill", number + 1, "of", KILLS, flush=True)
    for part in ("", "moody"):
        assert all(order == sorted(order) for order in versions(stage.box(part)).values())
    await compare_with_log(stage, expected)


async def publish(stage: Stage, name: str, status: str) -> None:
    """Publish a change until it is confirmed: a kill may cut the connection."""
    end = time.monotonic() + 2 * PATIENCE
    while True:
        try:
            await stage.publish(stage.thing(name, status))
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def compare_with_log(stage: Stage, expected: dict[str, list[str]]) -> None:
    """Check the transitions of each alert, and the list of alerts, against what was published."""
    exported = await stage.host.client.get("/api/events.ndjson?type=almenara.alert.*")
    assert exported.is_success
    page = (await stage.host.client.get("/alerts")).text
    alerts: dict[str, dict[str, Any]] = await stage.alerts()
    for name, changes in expected.items():
        if not changes:
            continue
        logged = await stage.statuses(name)
        assert logged == changes, name
        assert alerts[name]["status"] == changes[-1]
        row = re.search(rf'href="/alerts/rules/{re.escape(alerts[name]["key"])}"', page)
        assert row is not None, f"{name} is not on the page"
    section = page.partition("Needs attention")[2].partition("</section>")[0]
    firing = {name for name, changes in expected.items() if changes[-1:] == ["firing"]}
    assert {name for name in THINGS if alerts.get(name, {}).get("key", " ") in section} == firing


async def test_changes_arrive_over_kills(tmp_path: Path) -> None:
    seed = choose_seed()
    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        # The same alert fires again and again here; that is not flapping.
        flapping = {"fires": 1_000, "within": 60, "settle": 1}
        config = host.configure(list(KILL.values()), flapping=flapping)
        with host.use(Almenara(tmp_path / "almenara", config=config)) as almenara:
            kills[:] = [Kills(almenara, random.Random(seed))]
            await play_all(host, KILL, limit=60.0 * KILLS + 600)
