"""Buttons in messages: signed requests acknowledge and silence what the receiver may read."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.alert_scenarios import resource
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.notification_receivers import HttpReceiver, Slack
from support.servers import wait_until
from support.slack_requests import SECRET, sign_press

pytestmark = pytest.mark.anyio
RULE = {"name": "bad", "severity": "ERROR",
        "when": {"resource": {"kind": "thing", "status": ["bad"]}}}  # fmt: skip


LABELS = {"1password.com/vault": "a", "a name": "with spaces"}


class Setup:
    """An Almenara with two teams, and a Slack that may read the alerts of one."""

    def __init__(self, almenara: Almenara, lab: Laboratory, slack: Slack) -> None:
        self.almenara, self.lab, self.slack = almenara, lab, slack
        self.tokens = almenara.command("access", "create", "test", "--role", "operator")

    async def fail(self, *teams: str) -> None:
        await self.lab.publish(*(
            resource("thing", team, "bad", "ERROR", state={"labels": {"team": team, **LABELS}})
            for team in teams
        ))  # fmt: skip

    def get(self, path: str) -> Any:
        headers = {"authorization": f"Bearer {self.tokens.stdout.strip()}"}
        return httpx.get(self.almenara.url + path, headers=headers, timeout=30).json()

    def alert(self, name: str) -> dict[str, Any]:
        alerts = self.get("/api/alerts")
        return next((each for each in alerts if each["state"]["labels"].get("name") == name), {})

    def press(self, value: str, receiver: str = "slack", **changes: Any) -> int:
        """Send what Slack sends for a button; returns the status of the response."""
        headers, body = sign_press(value, **changes)
        path = f"{self.almenara.url}/alerts/callbacks/{receiver}"
        headers |= {"content-type": "application/x-www-form-urlencoded"}
        return httpx.post(path, headers=headers, content=body, timeout=30).status_code


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("callbacks")
    lab, slack = Laboratory(folder), Slack()
    with HttpReceiver(slack) as server:
        token = {"token": "xoxb-1", "channel": "C0DE", "url": server.url}
        receivers = [
            {"name": "slack", "kind": "slack", "settings": {**token, "signing_secret": SECRET},
             "grants": [{"labels": {"team": "ours"}}]},
            {"name": "plain", "kind": "slack", "settings": token},
            {"name": "hook", "kind": "slack_webhook", "settings": {"url": server.url}},
        ]  # fmt: skip
        route = {"receivers": ["slack"], "group_wait": 0.1, "group_interval": 0.2}
        alerting = {"enabled": True, "default_rules": False, "rules": [RULE],
                    "receivers": receivers, "route": route}  # fmt: skip
        config = {**lab.config, "alerting": alerting, "auth": {"mode": "token"}}
        almenara = Almenara(folder / "almenara", config=config)
        almenara.command("access", "rotate")
        with almenara:
            yield Setup(almenara, lab, slack)


async def test_buttons_acknowledge_and_silence(setup: Setup) -> None:
    await setup.fail("ours", "theirs")
    wait_until(lambda: setup.slack.messages, "the message")
    blocks = setup.slack.messages["1.000"]["attachments"][0]["blocks"]
    buttons = {button["action_id"]: button["value"] for button in blocks[-1]["elements"]}
    wait_until(lambda: setup.alert("theirs"), "the other alert")
    theirs = setup.alert("theirs")

    assert setup.press(buttons["almenara.acknowledge"], age=1000) == 401
    assert setup.press(buttons["almenara.acknowledge"], secret="other") == 401
    assert setup.press(f'["bad/{theirs["fingerprint"]}"]') == 200
    assert setup.press(buttons["almenara.acknowledge"]) == 200
    wait_until(lambda: setup.alert("ours")["status"] == "acknowledged", "the acknowledgement")
    assert setup.alert("ours")["state"]["by"] == "ada (slack)"
    # A receiver acts on what it may read alone.
    assert setup.alert("theirs")["status"] == "firing"
    wait_until(
        lambda: "acknowledged by ada" in str(setup.slack.messages["1.000"]), "the edited message"
    )

    assert setup.press(buttons["almenara.silence"], action="almenara.silence") == 200
    wait_until(lambda: setup.alert("ours")["status"] == "silenced", "the silence")
    (silence,) = setup.get("/api/silences")
    assert silence["author"] == "ada (slack)"
    labels = setup.alert("ours")["state"]["labels"]
    assert silence["matchers"] == [
        'rule="bad"', 'kind="thing"', 'name="ours"', 'namespace=""', f'origin="{labels["origin"]}"',
    ]  # fmt: skip


async def test_receiver_without_buttons_accepts_nothing(setup: Setup) -> None:
    assert setup.press('["bad/x"]', receiver="plain") == 401
    assert setup.press('["bad/x"]', receiver="hook") == 404
    assert setup.press('["bad/x"]', receiver="none") == 404
