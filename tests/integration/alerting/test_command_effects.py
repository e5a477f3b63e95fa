"""Commands of users that cannot take effect: they learn so, and why."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from almenara.alerting import overlays
from almenara.alerting.commands import make_silence
from almenara.hookspecs import AlertAction
from almenara.signals import Resource, Severity, now
from almenara.web.routes import alert_actions
from almenara.web.routes.callbacks import make_command
from support.scoped_application import OURS, ScopedApplication, run_scoped_application, wait_for

pytestmark = pytest.mark.anyio
HOUR = 3_600_000_000
SILENCE = {"matchers": ["rule=failed"], "comment": "upgrade", "seconds": 3600}


@pytest.fixture
async def scoped(tmp_path: Path) -> AsyncIterator[ScopedApplication]:
    async with run_scoped_application(tmp_path / "app") as running:
        yield running


async def silence(scoped: ScopedApplication) -> tuple[int, str]:
    answer = await scoped.request("POST", "/api/silences", "all", content=json.dumps(SILENCE))
    return answer.status, answer.text


def part(status: str) -> Resource:
    severity = Severity.ERROR if status == "failed" else Severity.INFO
    return Resource(kind="team.part", namespace=OURS, name="a", status=status, severity=severity)


async def alert_of(scoped: ScopedApplication, status: str) -> str:
    """Wait until the alert has a status, and return its address."""
    resources = scoped.services.hub.view.resources

    def find() -> list[Resource]:
        return [each for each in resources.of_kind("almenara.alert") if each.status == status]

    await wait_for(lambda: bool(find()))
    return f"/api/alerts/{find()[0].namespace}/{find()[0].name}"


async def test_silence_beyond_the_limit_is_refused(
    scoped: ScopedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (overlays, alert_actions):
        monkeypatch.setattr(module, "MAX_SILENCES", 2)
    identity = json.loads((await silence(scoped))[1])["id"]
    assert (await silence(scoped))[0] == 201
    status, text = await silence(scoped)
    assert (status, "there are 2 silences, and there can be 2; end some" in text) == (400, True)
    answer = await scoped.request("POST", f"/api/silences/{identity}/end", "all")
    assert answer.status == 204
    assert (await silence(scoped))[0] == 201


async def test_silence_that_does_not_take_effect_is_no_success(
    scoped: ScopedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another request has taken the last place after the check.
    monkeypatch.setattr(overlays, "MAX_SILENCES", 0)
    monkeypatch.setattr(alert_actions, "EFFECT_TIMEOUT", 0.2)
    status, text = await silence(scoped)
    assert (status, "is not in effect after 0.2 s" in text) == (503, True)


async def test_limit_counts_no_silence_that_has_ended(
    scoped: ScopedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scoped.application.alerting is not None
    command = make_silence(["rule=failed"], "ada", "x", now() + HOUR)
    await scoped.application.alerting.command(command)
    resources = scoped.services.hub.view.resources
    await wait_for(lambda: resources.get("almenara.silence", "", command.subject) is not None)
    await scoped.request("POST", f"/api/silences/{command.subject}/end", "all")
    monkeypatch.setattr(alert_actions, "MAX_SILENCES", 1)
    assert (await silence(scoped))[0] == 201


async def test_button_in_a_message_creates_no_silence_beyond_the_limit(
    scoped: ScopedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scoped.publish(OURS, [part("failed")])
    path = await alert_of(scoped, "firing")
    receiver: Any = SimpleNamespace(name="slack", may_read=lambda _: True)
    action = AlertAction(action="silence", alert=path.removeprefix("/api/alerts/"), by="ada")
    assert make_command(scoped.services, receiver, action) is not None
    monkeypatch.setattr(alert_actions, "MAX_SILENCES", 0)
    with pytest.raises(ValueError, match="there are 0 silences, and there can be 0"):
        make_command(scoped.services, receiver, action)


async def test_alert_that_does_not_fire_is_neither_acknowledged_nor_assigned(
    scoped: ScopedApplication,
) -> None:
    await scoped.publish(OURS, [part("failed")])
    path = await alert_of(scoped, "firing")
    body = json.dumps({"to": "ada"})
    for action, content in (("acknowledge", "{}"), ("assign", body), ("unacknowledge", "{}")):
        answer = await scoped.request("POST", f"{path}/{action}", "all", content=content)
        assert answer.status == 204, action
    await scoped.publish(OURS, [part("ok")])
    await alert_of(scoped, "resolved")
    for action, content in (("acknowledge", "{}"), ("assign", body)):
        answer = await scoped.request("POST", f"{path}/{action}", "all", content=content)
        assert (answer.status, "it is resolved" in answer.text) == (409, True), action
