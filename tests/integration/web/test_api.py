"""The JSON API: paging, filters, and the responses to invalid requests."""

import json

import pytest

from support.application import Almenara
from support.planning_stream import publish_planning
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_api_pages_filters_and_explains_refusals(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    await publish_planning(nats_server, *(json.dumps({"n": each}).encode() for each in range(25)))
    almenara.wait_for_events(25)
    seen: list[int] = []
    path = "/api/events?limit=10"
    while path:
        page = almenara.get(path)
        seen += [each["data"]["n"] for each in page["events"]]
        path = page["older"]
    assert seen == list(range(24, -1, -1))
    first = almenara.get("/api/events?limit=1")["events"][0]
    assert almenara.get(f"/api/events/{first['sequence']}") == first
    assert [each["data"]["n"] for each in almenara.events()] == list(range(25))
    for path, status in (
        ("/api/events?sevrity=ERROR", 400),
        ("/api/events?severity=BAD", 400),
        ("/api/events?limit=0", 400),
        ("/api/events?after=x", 400),
        ("/api/events/999999", 404),
        ("/api/none", 404),
        ("/events?severity=BAD", 400),
        ("/events/999999", 404),
        ("/nowhere", 404),
    ):
        assert almenara.status(path) == status, path
    described = almenara.get("/api/openapi.json")
    assert {"/api/events", "/api/events.ndjson", "/api/resources"} <= set(described["paths"])
