"""The council room in a real browser: text appears as it is written, and stays text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from almenara.panels.formats import text_anchor
from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara

HOSTILE = "<img src=x onerror=window.pwned=1></pre>"
NAMES = ("ada", "bob")


class Fleet:
    """A running Almenara, and what a council pushes to it."""

    def __init__(self, almenara: Almenara) -> None:
        self.almenara, self.number = almenara, 0
        token, value = create_token("t", Role.INTAKE, [], 3600, created_by="test", intake="load")
        AccessStore(almenara.folder / "var").add_token(token)
        headers = {"authorization": f"Bearer {value}",
                   "content-type": "application/cloudevents+json"}  # fmt: skip
        self.client = httpx.Client(base_url=almenara.url, headers=headers, timeout=30)

    def push(self, kind: str, **data: Any) -> None:
        self.number += 1
        body = {"specversion": "1.0", "id": str(self.number), "source": "fleet", "type": kind,
                "data": data}  # fmt: skip
        answer = self.client.post("/intake/cloudevents", content=json.dumps(body))
        assert answer.status_code == 200, answer.text

    def write(self, agent: str, text: str) -> None:
        self.push("vllm_token", agent_id=agent, token=text)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    config = {
        "plugins": {"disabled": ["nats"], "agents": {"enabled": True, "texts": "viewer"}},
        "intake": {"load": {"kind": "cloudevents"}},
    }
    with Almenara(tmp_path / "almenara", config=config) as almenara:
        yield Fleet(almenara)


def test_text_appears_as_it_is_written_and_after_a_reload(fleet: Fleet, page: Page) -> None:
    fleet.push("DELIBERATION_STARTED", task_id="t", role="DEV", agents=NAMES, story_id="US-1")
    for name in NAMES:
        fleet.push("vllm_stream_start", agent_id=name, stream_info={"role": "DEV", "model": "m"})
    fleet.write("ada", "I propose ")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(f"{fleet.almenara.url}/dashboards/agents.room?council=DEV")
    texts = {name: page.locator(f"#{text_anchor('panel-agents-room', name)}") for name in NAMES}
    expect(texts["ada"]).to_have_text("I propose")
    expect(page.locator("#live-words")).to_have_text("live")
    page.evaluate("document.querySelector('.agents-room').dataset.mark = 'same'")
    for word in ("a ", HOSTILE, " queue"):
        fleet.write("ada", word)
    fleet.write("bob", "No.")
    expect(texts["ada"]).to_have_text(f"I propose a {HOSTILE} queue")
    expect(texts["bob"]).to_have_text("No.")
    assert page.evaluate("window.pwned") is None
    assert page.locator(".agents-room[data-mark=same]").count() == 1

    fleet.write("ada", ", or two")
    page.reload()
    expect(texts["ada"]).to_have_text(f"I propose a {HOSTILE} queue, or two")
    fleet.push("DELIBERATION_COMPLETED", task_id="t", winner_agent_id="ada",
               decisions=[{"type": "CHOICE", "rationale": HOSTILE}])  # fmt: skip
    expect(page.locator(".agents-lane[data-wins]")).to_contain_text("ada")
    expect(page.locator(".agents-room")).to_contain_text(HOSTILE)
    assert page.evaluate("window.pwned") is None
    assert errors == []
