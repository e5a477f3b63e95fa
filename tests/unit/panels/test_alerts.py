"""The list of alerts, rendered from resources."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from almenara.alerting import ALERT
from almenara.alerting.matchers import parse_matcher
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
from almenara.web.routes.alerts import preview_silence

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def open_view(folder: Path, alerts: Sequence[Resource]) -> AsyncIterator[View]:
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        await bus.publish(alerts, "alerts")
        resources = Resources()
        await resources.rebuild(bus)
        yield View(
            bus=bus, history=History(bus), resources=resources,
            sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
            log_feeds=LogFeeds(), text_streams=TextStreams(),
        )  # fmt: skip


async def test_list_shows_alerts_beyond_those_with_a_sparkline(tmp_path: Path) -> None:
    alerts = [
        Resource(
            kind=ALERT, namespace="rule", name=f"a{number}", status="firing", time=now(),
            severity=Severity.ERROR,
            state={"since": now(), "annotations": {"summary": f"alert {number};"}},
        )
        for number in range(SPARKLINES + 10)
    ]  # fmt: skip
    async with open_view(tmp_path, alerts) as view:
        html = await LIST.render(view, LIST.parse_filters({}), Renderer())
    assert "could not be rendered" not in html
    assert all(f"alert {number};" in html for number in range(SPARKLINES + 10))


async def test_preview_of_a_silence_has_alerts_that_are_not_resolved(tmp_path: Path) -> None:
    alerts = [
        Resource(kind=ALERT, namespace="rule", name=status, status=status, time=now())
        for status in ("pending", "firing", "acknowledged", "resolved")
    ]
    async with open_view(tmp_path, alerts) as view:
        covered = preview_silence(view, [parse_matcher("rule=rule")])
    assert {row["status"] for row in covered} == {"pending", "firing", "acknowledged"}
