"""Streams that hold no events, in the overview and in what the doctor reports."""

import re
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from almenara.hookspecs import Finding
from almenara_nats.doctor import diagnose
from almenara_nats.settings import NatsSettings, StreamDefinition
from support.application import Almenara
from support.replicas import replica, shared_log
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio


async def find(server: NatsServer, check: str, **settings: object) -> list[Finding]:
    findings = await diagnose(NatsSettings(servers=[server.url], **settings))  # type: ignore[arg-type]
    return [finding for finding in findings if finding.check == check]


async def test_overview_lists_streams_of_events_alone(
    nats_server: NatsServer, almenara: Almenara, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    client = await nats.connect(nats_server.url)
    stream = client.jetstream()
    await stream.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await stream.add_stream(StreamConfig(name="KV_settings", subjects=["$KV.settings.>"]))
    async with replica(nats_server, tmp_path / "replica"):
        assert await stream.consumers_info("ALMENARA_BUS")
        expected = {"EVENTS", "KV_settings", "ALMENARA_BUS"}
        wait_until(
            lambda: (
                expected
                <= {each["name"] for each in almenara.get("/api/resources?kind=nats.stream")}
            ),
            "the streams",
        )
        page = almenara.text("/dashboards/nats")
        consumers = almenara.get("/api/resources?kind=nats.consumer")
    await client.close()
    rows = re.findall(r'<tr id="stream-.*?</tr>', page, re.DOTALL)
    assert [re.findall(r'<th scope="row"><a[^>]*>([^<]*)', row) for row in rows] == [["EVENTS"]]
    assert re.search(r"Not listed: 1 bus, \d key-value buckets", page)
    assert "ALMENARA_BUS" not in str(consumers)


async def test_doctor_names_what_an_account_without_streams_of_events_has(
    nats_server: NatsServer,
) -> None:
    (finding,) = await find(nats_server, "streams")
    assert (finding.verdict, finding.message) == (
        "warning",
        "the account has no stream of events",
    )
    await shared_log(nats_server).prepare()
    (finding,) = await find(nats_server, "streams")
    assert finding.verdict == "warning"
    assert "no stream of events, only bus (1)" in finding.message
    (finding,) = await find(nats_server, "streams", subjects=["audit.>"])
    assert finding.verdict == "ok"


async def test_doctor_reports_a_configured_stream_that_is_not_created_once(
    nats_server: NatsServer,
) -> None:
    definition = StreamDefinition(name="EVENTS", subjects=["events.>"])
    assert await find(nats_server, "streams", apply=[definition]) == []
    (finding,) = await find(nats_server, "stream EVENTS", apply=[definition])
    assert (finding.message, finding.remedy) == (
        "it does not exist yet",
        "Run `almenara streams apply`.",
    )
