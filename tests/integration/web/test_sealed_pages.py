"""Pages, searches and exports over HTTP whose events are mostly in sealed blocks."""

import asyncio
import json
from pathlib import Path
from unittest.mock import patch

from almenara.config import StorageSettings
from support.application import Almenara
from support.bus import make_events, store_and_seal

EVENTS = 3_000


def test_pages_and_exports_cover_sealed_events(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path / "var", hot_events=100, retention_interval=0.1)
    with patch("almenara.bus.sealing.BLOCK_EVENTS", 300):
        asyncio.run(store_and_seal(settings, make_events(0, EVENTS)))
    with Almenara(tmp_path, "nats://127.0.0.1:9", plugins__disabled="[nats]") as almenara:
        assert almenara.stored() >= EVENTS
        numbers: list[int] = []
        address = "/api/events?type=t3&limit=150"
        while address:
            page = almenara.get(address)
            numbers += [event["data"]["n"] for event in page["events"]]
            address = page["older"]
        assert numbers == list(range(EVENTS - 2, 0, -5))

        (event,) = almenara.get("/api/events?type=t2&text=17")["events"]
        assert event["data"] == {"n": 17}
        assert '"n": 17' in json.dumps(almenara.get(f"/api/events/{event['sequence']}"))

        lines = almenara.text("/api/events.ndjson?type=t*").splitlines()
        assert [json.loads(line)["data"]["n"] for line in lines] == list(range(EVENTS))

        text = almenara.text("/events?type=t2&text=17")
        assert text.count('class="event-link"') == 1
