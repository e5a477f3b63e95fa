"""Acceptance of alerting over `kill -9`: scenarios that share a kill, each in another state."""

from pathlib import Path

import pytest

from support.alert_scenarios import Host, Restarts, play_all
from support.alert_scenarios.laboratory import Laboratory
from support.alert_scenarios.restarts import RESTARTS
from support.application import Almenara
from support.notification_receivers import HttpReceiver, SmtpReceiver

pytestmark = pytest.mark.anyio


async def test_scenarios_hold_over_a_kill(tmp_path: Path) -> None:
    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        config = host.configure(list(RESTARTS.values()))
        with host.use(Almenara(tmp_path / "almenara", config=config)) as almenara:
            await play_all(host, RESTARTS, Restarts(almenara, len(RESTARTS)))
