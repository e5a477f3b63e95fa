"""Protobuf messages on a real server, with and without a usable schema."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.testing.source_run import MemoryContext
from almenara_nats.doctor import check_schemas
from almenara_nats.settings import NatsSettings
from support.nats_source import running, until
from support.protobuf import NOTE, write_schema
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_messages_are_decoded_by_the_schema_of_their_subject(
    nats_server: NatsServer, client: Any, memory: MemoryContext, tmp_path: Path
) -> None:
    schema = write_schema(tmp_path / "note.binpb")
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["notes.>"])
    await jetstream.publish("notes.a", NOTE)
    async with running(nats_server, memory, protobuf=[schema]) as run:
        await until(lambda: run.events, "the message")
        (event,) = run.events
        assert json.loads(bytes(event.data))["count"] == "150"
        assert (event.correlation, event.severity.name) == ("US-101", "ERROR")


async def test_schema_that_cannot_be_read_degrades_the_source_and_loses_nothing(
    nats_server: NatsServer, client: Any, memory: MemoryContext, tmp_path: Path
) -> None:
    schema = write_schema(tmp_path / "note.binpb")
    schema = msgspec.structs.replace(schema, descriptor_set=tmp_path / "absent")
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["notes.>"])
    await jetstream.publish("notes.a", NOTE)
    async with running(nats_server, memory, protobuf=[schema]) as run:
        await until(lambda: run.events and run.status == "degraded", "the message")
        assert "absent cannot be read" in run.reason
        assert run.events[0].raw == NOTE
    (finding,) = check_schemas(NatsSettings(protobuf=[schema]))
    assert (finding.verdict, finding.check) == ("failed", "Protobuf schemas")
