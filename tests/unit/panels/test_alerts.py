"""The list of alerts, rendered from resources."""

from pathlib import Path

import pytest

from almenara.alerting import ALERT
from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.live.log_feed import LogFeeds
from almenara.live.text_streams import TextStreams
from almenara.panels.builtin.alerts import LIST, SPARKLINES
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.signals import Resource, Severity, now
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor

pytestmark = pytest.mark.anyio


async def test_list_shows_alerts_beyond_those_with_a_sparkline(tmp_path: Path) -> None:
    alerts = [
        Resource(
            kind=ALERT, namespace="rule", name=f"a{number}", status="firing", time=now(),
            severity=Severity.ERROR,
            state={"since": now(), "annotations": {"summary": f"alert {number};"}},
        )
        for number in range(SPARKLINES + 10)
    ]  # fmt: skip
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish(alerts, "alerts")
        resources = Resources()
        await resources.rebuild(bus)
        view = View(
            bus=bus, history=History(bus), resources=resources,
            sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
            log_feeds=LogFeeds(), text_streams=TextStreams(),
        )  # fmt: skip
        html = await LIST.render(view, LIST.parse_filters({}), Renderer())
    assert "could not be rendered" not in html
    assert all(f"alert {number};" in html for number in range(SPARKLINES + 10))
