"""Agents whose events come through NATS are unknown while the server is frozen or killed."""

import json
from pathlib import Path

import pytest

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until

PATIENCE = 60.0
AGENTS = json.dumps({"enabled": True})
PAGES = ("/dashboards/agents", "/dashboards/agents.room?council=DEV")


def statuses(almenara: Almenara) -> dict[str, str]:
    return {
        f"{each['kind'].removeprefix('agents.')} {each['name']}": each["status"]
        for each in almenara.get("/api/resources?limit=1000")
        if each["kind"].startswith("agents.") and not each["deleted"]
    }


def publish(nats: NatsServer, **fields: object) -> None:
    client = RawClient(nats.port)
    client.publish("fleet", json.dumps(fields).encode())
    client.flush()
    client.close()


@pytest.mark.parametrize("fault", ["frozen", "killed"])
def test_agents_are_unknown_while_their_server_is_silent(tmp_path: Path, fault: str) -> None:
    with NatsServer(tmp_path / "nats") as nats:
        client = RawClient(nats.port)
        client.make_stream("FLEET", "fleet")
        client.close()
        publish(nats, event_type="STORY_CREATED", story_id="S", title="A story")
        publish(
            nats, event_type="DELIBERATION_STARTED", story_id="S", task_id="t", role="DEV",
            agents=["ada"],
        )  # fmt: skip
        with Almenara(tmp_path / "almenara", nats.url, plugins__agents=AGENTS) as almenara:
            before = {"agent ada", "council DEV", "deliberation t", "story S"}
            wait_until(lambda: statuses(almenara).keys() == before, "the agents", PATIENCE)
            if fault == "frozen":
                nats.freeze()
            else:
                nats.kill()
            wait_until(
                lambda: set(statuses(almenara).values()) == {"unknown"}, "no claim", PATIENCE
            )
            for page in PAGES:
                assert "Not observed since" in almenara.text(page)
            if fault == "frozen":
                nats.thaw()
            else:
                nats.start()
            publish(
                nats, event_type="DELIBERATION_COMPLETED", story_id="S", task_id="t", role="DEV",
                winner_agent_id="ada",
            )  # fmt: skip
            expected = {
                "agent ada": "idle", "council DEV": "idle", "deliberation t": "completed",
                "story S": "created",
            }  # fmt: skip
            wait_until(lambda: statuses(almenara) == expected, "what follows", PATIENCE)
            for page in PAGES:
                assert "Not observed since" not in almenara.text(page)
