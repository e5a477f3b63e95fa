"""Acceptance of alerting in a storm: 10,000 alerts at once, and one more that must not wait."""

import asyncio
import os
from pathlib import Path

import pytest

from support.alert_scenarios import Host, Receiver, Scenario, Stage, play_all, scenario
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import HttpReceiver, SmtpReceiver

pytestmark = pytest.mark.anyio
ALERTS = int(os.environ.get("ALMENARA_STORM_ALERTS", "10000"))
BATCH = 1_000
STORM: dict[str, Scenario] = {}
IS_RAGING = asyncio.Event()


async def publish_all(stage: Stage, status: str) -> None:
    for start in range(0, ALERTS, BATCH):
        numbers = range(start, min(start + BATCH, ALERTS))
        await stage.publish(*(stage.thing(f"item-{number}", status) for number in numbers))
        IS_RAGING.set()


async def count(stage: Stage, status: str) -> int:
    query = f"?type=almenara.alert.{status}&subject={stage.name}/*"
    exported = await stage.host.client.get(f"/api/events.ndjson{query}")
    return len(exported.text.splitlines())


@scenario(
    into=STORM,
    group_wait=1.0,
    group_interval=1.0,
    receivers={
        "": Receiver(),
        "chat": Receiver(kind="slack_webhook", options={"rate_limit": 30, "burst": 2}),
    },
    routes=[
        {"matchers": ["severity=error"], "continue": True},
        {"matchers": ["severity=error"], "receivers": ["chat"], "group_by": ["name"]},
    ],
)
async def a_storm_of_alerts_is_counted_and_ends(stage: Stage) -> None:
    await publish_all(stage, "bad")
    message = await stage.next()
    while message.open_count < ALERTS:
        assert message.status == "firing"
        message = await stage.next()
    assert (message.open_count, len(message.alerts)) == (ALERTS, 200)
    assert message.omitted == message.open_count + message.resolved_count - 200
    await publish_all(stage, "ok")
    resolved = message.resolved_count
    while message.status != "resolved":
        message = await stage.next()
        resolved += message.resolved_count
    # A message that the receiver was slow to confirm is sent again, with what has resolved since.
    assert message.open_count == 0
    assert resolved >= ALERTS
    # The chat is not flooded: one digest stands for thousands of groups.
    chat = stage.box("chat").bodies
    await stage.until(lambda: any("[DIGEST]" in body["text"] for body in chat), "a digest")
    assert len(chat) < ALERTS / 10
    assert [await count(stage, status) for status in ("firing", "resolved")] == [ALERTS, ALERTS]


@scenario(into=STORM, group_wait=0.0)
async def another_alert_arrives_in_the_storm(stage: Stage) -> None:
    await IS_RAGING.wait()
    await stage.fail("a")
    assert (await stage.next()).names == {"a": "firing"}
    await stage.recover("a")
    assert (await stage.next()).names == {"a": "resolved"}


async def test_storm_is_survived(tmp_path: Path) -> None:
    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        config = host.configure(list(STORM.values()))
        with host.use(Almenara(tmp_path / "almenara", config=config)) as almenara:
            await play_all(host, STORM)
            page = almenara.text("/alerts", {"authorization": f"Bearer {host.token}"})
    assert "Resolved within the last hour" in page
