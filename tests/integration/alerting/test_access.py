"""Who sees which alerts, and who may acknowledge and silence them."""

import asyncio
import html
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from support.application import Almenara
from support.servers import wait_until

pytestmark = pytest.mark.anyio

PLUGIN = """
import almenara
from almenara.sdk import every
from almenara.signals import Resource, Severity


class Team:
    def __init__(self, name):
        self.name = name

    async def run(self, publish):
        async for _ in every(5):
            await publish([
                Resource(
                    kind="pod", namespace=self.name, name=f"pod-{self.name}", status="Failed",
                    severity=Severity.ERROR, state={"note": f"marker-{self.name}"},
                )
            ])


@almenara.hookimpl
def almenara_sources(settings):
    return [Team("ours"), Team("theirs")]
"""
RULE = {
    "name": "theirs",
    "when": {"resource": {"kind": "pod", "status": ["Failed"]}},
    "annotations": {"summary": "{{ namespace }}: {{ state.note }}"},
}
TOKENS = {
    "viewer": ("--role", "viewer"),
    "operator": ("--role", "operator"),
    "scoped": ("--role", "operator", "--source", "ours"),
    # The name of a namespace is the name of the rule, too.
    "namespace": ("--role", "operator", "--namespace", "ours"),
}


class Server:
    """A running Almenara with an alert of each team, and a client for each token."""

    def __init__(self, almenara: Almenara) -> None:
        self.almenara, self.url = almenara, almenara.url
        self.tokens = {
            caller: almenara.command("access", "create", caller, *options).stdout.strip()
            for caller, options in TOKENS.items()
        }

        def has_alerts() -> bool:
            answer = self.request("GET", "/api/alerts", "viewer")
            return answer.status_code == 200 and len(answer.json()) == 2

        wait_until(has_alerts, "two alerts", 60)
        self.alerts = {
            each["state"]["namespace"]: f"{each['rule']}/{each['fingerprint']}"
            for each in self.request("GET", "/api/alerts", "viewer").json()
        }

    def request(self, method: str, path: str, caller: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[caller]}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=20, **more)

    def status(self, caller: str, team: str = "ours") -> str:
        alerts = self.request("GET", "/api/alerts", caller).json()
        return str(next(a["status"] for a in alerts if a["state"]["namespace"] == team))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("access")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "teams.py").write_text(PLUGIN, "utf-8")
    config = {
        "alerting": {"enabled": True, "default_rules": False, "rules": [RULE]},
        "plugins_dir": str(plugins), "plugins": {"disabled": ["nats"]}, "auth": {"mode": "token"},
    }  # fmt: skip
    almenara = Almenara(folder / "almenara", config=config)
    almenara.command("access", "rotate")
    with almenara:
        yield Server(almenara)


def test_pages_and_api_show_alerts_within_the_scope(server: Server) -> None:
    for caller in TOKENS:
        sees_theirs = caller in ("viewer", "operator")
        pages = [
            "/alerts", "/api/alerts", "/api/events?type=almenara.alert.*",
            "/api/resources", "/panels/alerts", f"/alerts/rules/{server.alerts['ours']}",
        ]  # fmt: skip
        for page in pages:
            text = server.request("GET", page, caller).text
            is_of_all = page not in pages[-1:]
            assert ("marker-theirs" in text) is (sees_theirs and is_of_all), (caller, page)
        hidden = server.request("GET", f"/alerts/rules/{server.alerts['theirs']}", caller)
        assert hidden.status_code == (200 if sees_theirs else 404), caller
        badge = re.search(r'alert-count.*?<b class="figure">(\d+)', text, re.DOTALL)
        assert badge is not None
        assert badge[1] == ("2" if sees_theirs else "1"), caller


@pytest.mark.parametrize("rule", ["rules", "silences", "receivers", "callbacks", "acknowledge"])
def test_alerts_of_a_rule_named_as_a_page_have_a_page(server: Server, rule: str) -> None:
    page = server.request("GET", f"/alerts/rules/{rule}/0123456789abcdef", "viewer")
    assert "There is no such alert" in page.text


async def test_frames_show_alerts_within_the_scope(server: Server) -> None:
    async def frames(caller: str) -> str:
        rule, name = server.alerts["theirs"].split("/")
        panels = ["alerts", "alert-badge", f"alert%3Frule%3D{rule}%26name%3D{name}", "alert-rules"]
        address = (
            server.url.replace("http", "ws")
            + "/live?"
            + "&".join(f"panel={panel}" for panel in panels)
        )
        headers = {"authorization": f"Bearer {server.tokens[caller]}"}
        text = ""
        async with connect(address, additional_headers=headers, origin=server.url) as socket:  # type: ignore[arg-type]
            for _ in range(20):
                try:
                    async with asyncio.timeout(1.5):
                        text += str(await socket.recv())
                except TimeoutError:
                    break
        return text

    seen = dict(zip(TOKENS, await asyncio.gather(*map(frames, TOKENS)), strict=True))
    for caller, text in seen.items():
        assert ("marker-theirs" in text) is (caller in ("viewer", "operator")), caller
        assert "marker-ours" in text, caller
        assert ("kind pod" in text) is (caller in ("viewer", "operator")), caller


def test_acknowledging_needs_role_and_scope(server: Server) -> None:
    ours, theirs = server.alerts["ours"], server.alerts["theirs"]
    expected = {
        ("viewer", ours): 403, ("scoped", theirs): 404, ("namespace", theirs): 404,
        ("scoped", "theirs/unknown"): 404, ("namespace", ours): 204,
    }  # fmt: skip
    for (caller, alert), status in expected.items():
        path = f"/api/alerts/{alert}/acknowledge"
        answer = server.request("POST", path, caller, content=b'{"comment": "mine"}')
        assert answer.status_code == status, (caller, alert, answer.text)
    assert server.status("viewer") == "acknowledged"
    assert server.status("viewer", "theirs") == "firing"
    path = f"/api/alerts/{ours}/unacknowledge"
    assert server.request("POST", path, "scoped").status_code == 204
    assert server.status("viewer") == "firing"
    wrong = server.request("POST", f"/api/alerts/{ours}/acknowledge", "operator", content=b"{")
    assert wrong.status_code == 400


def test_silencing_needs_all_sources_and_lasts_over_a_restart(server: Server) -> None:
    body = json.dumps({"matchers": ["namespace=ours"], "comment": "upgrade", "seconds": 3600})
    for caller in ("viewer", "scoped", "namespace"):
        assert server.request("POST", "/api/silences", caller, content=body).status_code == 403, (
            caller
        )
        assert server.request("GET", "/alerts/silences", caller).status_code == (
            200 if caller == "viewer" else 403
        )
    created = server.request("POST", "/api/silences", "operator", content=body)
    assert created.status_code == 201, created.text
    wait_until(lambda: server.status("viewer") == "silenced", "a silenced alert")
    server.almenara.kill()
    server.almenara.launch()
    wait_until(server.almenara.ready, "almenara", 60)
    (silence,) = server.request("GET", "/api/silences", "viewer").json()
    assert (silence["comment"], silence["author"]) == ("upgrade", "operator")
    assert server.status("viewer") == "silenced"
    path = f"/api/silences/{silence['id']}/end"
    assert server.request("POST", path, "scoped").status_code == 403
    assert server.request("POST", path, "operator").status_code == 204
    wait_until(lambda: server.status("viewer") == "firing", "a firing alert")
    assert server.request("POST", path, "operator").status_code == 404
    wrong = body.replace("namespace=ours", "nothing")
    answer = server.request("POST", "/api/silences", "operator", content=wrong)
    assert (answer.status_code, "is not a matcher" in answer.text) == (400, True)


def test_forms_acknowledge_and_silence(server: Server) -> None:
    client = httpx.Client(base_url=server.url, headers={"origin": server.url}, timeout=20)

    def csrf(path: str) -> str:
        match = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
        assert match is not None, path
        return match[1]

    form = {"csrf": csrf("/sign-in"), "token": server.tokens["operator"]}
    assert client.post("/sign-in", data=form).status_code == 303
    theirs = server.alerts["theirs"]
    page = f"/alerts/rules/{theirs}"
    form = {"csrf": csrf(page), "alert": theirs, "comment": "<b>mine</b>"}
    assert client.post("/alerts/acknowledge", data={**form, "csrf": "x"}).status_code == 403
    done = client.post("/alerts/acknowledge", data=form)
    assert (done.status_code, done.headers["location"]) == (303, page)
    shown = client.get(page).text
    assert "&lt;b&gt;mine&lt;/b&gt;" in shown
    assert client.post("/alerts/unacknowledge", data=form).status_code == 303
    link = re.search(r'href="(/alerts/silences\?[^"]*)">Silence', shown)
    assert link is not None
    offered = re.search(r'<textarea id="matchers".*?>(.*?)</textarea>', client.get(
        html.unescape(link[1])).text, re.DOTALL)  # fmt: skip
    assert offered is not None
    assert html.unescape(offered[1]).splitlines() == [
        'rule="theirs"', 'kind="pod"', 'name="pod-theirs"', 'namespace="theirs"', 'origin="theirs"',
    ]  # fmt: skip
    silence = {"csrf": form["csrf"], "matchers": html.unescape(offered[1]), "hours": "4"}
    preview = client.post("/alerts/silences", data={**silence, "action": "preview"})
    assert "Covers 1 active alert" in preview.text
    silence = {"csrf": form["csrf"], "matchers": 'name=~"pod-.*"', "hours": "4", "comment": "x"}
    preview = client.post("/alerts/silences", data={**silence, "action": "preview"})
    assert "Covers 2 active alerts" in preview.text
    assert server.request("GET", "/api/silences", "viewer").json() == []
    refused = client.post("/alerts/silences", data={**silence, "comment": "", "action": "create"})
    assert (refused.status_code, "needs a comment" in refused.text) == (400, True)
    client.close()
