"""Alerts about what a server reports, while the server is away."""

from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig

from support.application import Almenara
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio
RULE = {
    "name": "stalled",
    "when": {"resource": {"kind": "nats.consumer", "name": "forgetful", "status": ["stalled"]}},
}


async def test_outage_of_nats_does_not_resolve_an_alert_about_a_consumer(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = await nats.connect(nats_server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="PLANNING", subjects=["planning.>"]))
    await jetstream.pull_subscribe("planning.>", durable="forgetful", stream="PLANNING")
    await jetstream.publish("planning.a", b"{}")
    await client.close()
    # The source must not become blind meanwhile: that makes alerts unknown by itself.
    config = {"alerting": {"enabled": True, "source_grace": 3600, "rules": [RULE]}}
    quick = {"PLUGINS__NATS__OBSERVE": "0.2", "PLUGINS__NATS__STALLED_AFTER": "0.5"}
    with Almenara(tmp_path / "a", nats_server.url, config=config, **quick) as almenara:

        def wait_for(status: str) -> None:
            def has_status() -> bool:
                alerts: list[Any] = almenara.get("/api/alerts")
                return any((a["rule"], a["status"]) == ("stalled", status) for a in alerts)

            wait_until(has_status, f"the alert is {status}", 30)

        wait_for("firing")
        nats_server.kill()
        wait_for("unknown")
        nats_server.start()
        wait_for("firing")
        client = await nats.connect(nats_server.url)
        await client.jetstream().delete_consumer("PLANNING", "forgetful")
        await client.close()
        wait_for("resolved")
        query = "?type=almenara.alert.*&subject=stalled/*"
        statuses = [event["type"].rpartition(".")[2] for event in almenara.events(query)]
        assert statuses[:2] == ["firing", "unknown"]
