"""Acceptance of alerting: many scenarios in one real Almenara, with receivers at the wire."""

import importlib
from pathlib import Path

import pytest

from support.alert_scenarios import SCENARIOS, Host, play_all
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import HttpReceiver, SmtpReceiver

pytestmark = pytest.mark.anyio
MODULES = ("grouping", "conditions", "overlays", "delivery")


async def test_scenarios_hold(tmp_path: Path) -> None:
    for module in MODULES:
        importlib.import_module(f"support.alert_scenarios.{module}")
    assert len(SCENARIOS) >= 60
    with HttpReceiver() as http, SmtpReceiver() as mail:
        host = Host(Laboratory(tmp_path), http, mail)
        config = host.configure(list(SCENARIOS.values()))
        with host.use(Almenara(tmp_path / "almenara", config=config)):
            await play_all(host, SCENARIOS)
