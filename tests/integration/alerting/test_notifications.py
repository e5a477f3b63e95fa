"""From a rule to receivers in a real Almenara, the page of receivers, and the command that tests
one."""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.application import Almenara
from support.notification_receivers import HttpReceiver, SmtpReceiver
from support.scripted_alerts import AlertScript
from support.servers import wait_until

SECRET = "s3cret-t0ken"
TIMES = {"group_by": ["rule", "alert"], "group_wait": 0.1, "group_interval": 0.2}


class Setup:
    """An Almenara with a webhook, a mailbox as its fallback, and alerts from a file."""

    def __init__(
        self, almenara: Almenara, script: AlertScript, hook: HttpReceiver, mail: SmtpReceiver
    ) -> None:
        self.almenara, self.script, self.hook, self.mail = almenara, script, hook, mail

    def receiver(self, name: str) -> dict[str, Any]:
        listed = self.almenara.get("/api/resources?kind=almenara.receiver")
        return next(each for each in listed if each["name"] == name)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    script = AlertScript(tmp_path)
    with HttpReceiver() as hook, SmtpReceiver() as mail:
        url = f"{hook.url}/hook/{SECRET}"
        receivers = [
            {"name": "ops", "kind": "webhook", "settings": {"url": url}, "fallback": "mail"},
            {"name": "mail", "kind": "email", "settings": {
                "host": "127.0.0.1", "port": mail.port, "security": "none",
                "from": "almenara@example.com", "to": ["ops@example.com"]}},
        ]  # fmt: skip
        alerting = {"receivers": receivers, "fallback_after": 0.5,
                    "route": {"receivers": ["ops"], **TIMES}}  # fmt: skip
        config = {**script.config, "alerting": {"enabled": True, **alerting}}
        with Almenara(tmp_path / "almenara", config=config) as almenara:
            yield Setup(almenara, script, hook, mail)


def test_alert_reaches_the_receiver_and_its_fallback(setup: Setup) -> None:
    setup.script.set(disk="firing")
    wait_until(lambda: setup.hook.requests, "the notification")
    body = setup.hook.requests[0].json
    assert body["alerts"][0]["annotations"]["summary"] == "disk <!channel> is broken"
    wait_until(lambda: setup.receiver("ops")["status"] == "ready", "the receiver")

    setup.hook.answer = lambda request: (500, {}, f"no {request.path}".encode())
    setup.script.set(pump="firing")

    def subjects() -> list[str]:
        # A built-in rule fires for the failing receiver, too.
        texts = [message["subject"].strip() for message in setup.mail.mailbox.messages]
        return [text for text in texts if "scripted" in text]

    # On a slow machine, the first alert may wait for a retry, and go to the fallback as well.
    expected = "[FIRING] scripted alert=pump: pump <!channel> is broken"
    wait_until(lambda: expected in subjects(), "the fallback")
    assert subjects().count(expected) == 1
    failing = setup.receiver("ops")
    assert (failing["status"], failing["severity"]) == ("failing", "ERROR")
    assert "status 500" in failing["state"]["error"]
    # The address of the webhook is a secret: nothing that Almenara shows or logs has it.
    page = setup.almenara.text("/alerts/receivers")
    assert "Failing since" in page
    assert "status 500: no ***" in page
    events = "".join(map(json.dumps, setup.almenara.events()))
    assert not [text for text in (page, events, setup.almenara.log) if SECRET in text]


def submit(almenara: Almenara, receiver: str, **headers: str) -> tuple[int, str]:
    """Press the button of a receiver on the page."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    page = opener.open(f"{almenara.url}/alerts/receivers", timeout=30).read().decode()
    token = page.partition('name="csrf" value="')[2].partition('"')[0]
    body = urllib.parse.urlencode({"csrf": token, "receiver": receiver}).encode()
    request = urllib.request.Request(
        f"{almenara.url}/alerts/receivers/test",
        data=body,
        headers={"origin": almenara.url, "sec-fetch-site": "same-origin", **headers},
    )
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_button_sends_a_test(setup: Setup) -> None:
    status, page = submit(setup.almenara, "ops")
    assert (status, "ops has accepted the test." in page) == (200, True)
    assert [request.json["status"] for request in setup.hook.requests] == ["firing", "resolved"]

    setup.hook.answer = lambda request: (403, {}, b"")
    status, page = submit(setup.almenara, "ops")
    assert status == 200
    assert "ops did not accept the test: status 403; check the token and its permissions" in page
    assert submit(setup.almenara, "nope")[0] == 404


def test_button_of_another_site_does_nothing(setup: Setup) -> None:
    status, _ = submit(
        setup.almenara, "ops", origin="https://evil.example", **{"sec-fetch-site": "cross-site"}
    )
    assert status == 403
    assert setup.hook.requests == []


def test_command_sends_a_test(setup: Setup) -> None:
    def notify_test(receiver: str) -> subprocess.CompletedProcess[str]:
        config = str(setup.almenara.folder / "almenara.yaml")
        command = [sys.executable, "-m", "almenara", "--config", config]
        command += ["alerts", "notify-test", receiver]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = notify_test("mail")
    assert (done.returncode, done.stdout) == (0, "The receiver mail has accepted the test.\n")
    assert setup.mail.mailbox.messages[0]["subject"].startswith("[FIRING] disk_full")
    done = notify_test("ops2")
    assert done.returncode == 1
    assert "did you mean ops?" in done.stderr
    setup.hook.answer = lambda request: (500, {}, request.path.encode())
    done = notify_test("ops")
    assert done.returncode == 1
    assert "did not accept the test: status 500" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_removed_receiver_disappears(tmp_path: Path) -> None:
    with HttpReceiver() as hook:

        def config(*names: str) -> dict[str, Any]:
            receivers = [{"name": name, "kind": "webhook", "settings": {"url": hook.url}}
                         for name in names]  # fmt: skip
            route = {"receivers": list(names[:1])}
            return {"alerting": {"receivers": receivers, "route": route},
                    "plugins": {"disabled": ["nats"]}}  # fmt: skip

        def names(almenara: Almenara) -> set[str]:
            listed = almenara.get("/api/resources?kind=almenara.receiver")
            return {each["name"] for each in listed if not each["deleted"]}

        with Almenara(tmp_path, config=config("a", "b")) as almenara:
            wait_until(lambda: names(almenara) == {"a", "b"}, "both receivers")
        with Almenara(tmp_path, config=config("b")) as almenara:
            wait_until(lambda: names(almenara) == {"b"}, "the one that is left")
        with Almenara(tmp_path, config=config()) as almenara:
            wait_until(lambda: names(almenara) == set(), "no receiver")
