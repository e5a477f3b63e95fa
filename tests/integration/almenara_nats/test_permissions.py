"""Permissions: the documented ones suffice, and each missing one is reported with its subject."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest

from almenara.config import Secret
from almenara.testing.source_run import MemoryContext
from almenara_nats.client import connected
from almenara_nats.doctor import diagnose
from almenara_nats.errors import PermissionDeniedError
from almenara_nats.settings import NatsSettings
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

DOCUMENTED = (
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.CONSUMER.LIST.*",
    "$JS.API.CONSUMER.INFO.*.almenara",
    "$JS.API.CONSUMER.CREATE.*.almenara",
    "$JS.API.CONSUMER.DURABLE.CREATE.*.almenara",
    "$JS.API.CONSUMER.DELETE.*.almenara",
    "$JS.API.CONSUMER.RESET.*.almenara",
    "$JS.API.CONSUMER.MSG.NEXT.*.almenara",
    "$JS.ACK.*.almenara.>",
)
LOGIN: dict[str, Any] = {"user": "watch", "password": Secret.of("word")}
CONSUMER = "nats.consumer"
FAST = {"rescan": 0.2, "observe": 0.2}


@asynccontextmanager
async def restricted(
    folder: Path, *publish: str, subscribe: str = "_INBOX.>"
) -> AsyncIterator[tuple[NatsServer, Any]]:
    """A server whose user `watch` has these permissions, and a client with all of them."""
    server = NatsServer(folder / "nats")
    subjects = ", ".join(f'"{subject}"' for subject in publish)
    server.config.write_text(
        server.config.read_text() + "authorization { users: ["
        '{user: "all", password: "word"}, {user: "watch", password: "word", permissions: {'
        f'publish: [{subjects}], subscribe: ["{subscribe}"]}}}}]}}\n'
    )
    with server:
        client = await nats.connect(server.url, user="all", password="word")
        yield server, client
        await client.close()


def without(*subjects: str) -> list[str]:
    return [subject for subject in DOCUMENTED if not subject.startswith(subjects)]


async def test_documented_permissions_suffice(tmp_path: Path, memory: MemoryContext) -> None:
    readme = Path(__file__).parents[3] / "plugins/almenara_nats/README.md"
    assert all(f"`{subject}`" in readme.read_text() for subject in DOCUMENTED)
    async with restricted(tmp_path, *DOCUMENTED) as (server, client):
        jetstream = client.jetstream()
        await jetstream.add_stream(name="S", subjects=["s"])
        await jetstream.add_stream(name="I", subjects=["i"], retention="interest")
        await publish_numbers(jetstream, "s", range(3))
        findings = await diagnose(NatsSettings(servers=[server.url], **LOGIN))
        assert [finding for finding in findings if finding.verdict != "ok"] == []
        for _ in range(2):
            async with running(server, memory, **LOGIN, **FAST) as run:
                await until(
                    lambda: run.status_of("nats.consumer", "almenara") == "ok", "a consumer"
                )
                await publish_numbers(jetstream, "s", range(3, 6))
                await publish_numbers(jetstream, "i", range(6, 9))
                await until(lambda: {3, 4, 5, 6, 7, 8} <= set(run.numbers), "the messages")
                assert run.status == "running", run.reason


async def test_denied_acknowledgement_is_reported(tmp_path: Path, memory: MemoryContext) -> None:
    async with restricted(tmp_path, *without("$JS.ACK")) as (server, client):
        await client.jetstream().add_stream(name="Orders", subjects=["s"])
        await publish_numbers(client.jetstream(), "s", range(3))
        async with running(server, memory, **LOGIN, **FAST) as run:
            await until(lambda: run.status == "degraded", "the report")
            assert "denies publishing to $JS.ACK.Orders.almenara.>" in run.reason
            assert "cannot be acknowledged" in run.reason
            samples = len(run.samples("messages"))
            await until(lambda: len(run.samples("messages")) > samples + 10, "more rounds")
            assert run.status == "degraded"


@pytest.mark.parametrize(
    ("missing", "subject"),
    [
        ("$JS.API.STREAM.LIST", "$JS.API.STREAM.LIST"),
        ("$JS.API.STREAM.INFO", "$JS.API.STREAM.INFO.S"),
        ("$JS.API.CONSUMER.INFO", "$JS.API.CONSUMER.INFO.S.almenara"),
        ("$JS.API.CONSUMER.MSG.NEXT", "$JS.API.CONSUMER.MSG.NEXT.S.almenara"),
    ],
)
async def test_denied_request_is_reported_with_its_subject(
    tmp_path: Path, memory: MemoryContext, missing: str, subject: str
) -> None:
    async with restricted(tmp_path, *without(missing)) as (server, client):
        await client.jetstream().add_stream(name="S", subjects=["s"])
        async with running(server, memory, **LOGIN, **FAST) as run:
            await until(lambda: run.status == "degraded", "the report", 4)
            assert f"denies publishing to {subject}" in run.reason
            assert "Enable JetStream" not in run.reason
        if "NEXT" not in missing:
            findings = await diagnose(NatsSettings(servers=[server.url], **LOGIN))
            failed = [finding for finding in findings if finding.verdict == "failed"]
            expected = "cannot" if "STREAM.INFO" in missing else subject
            assert failed == [] or expected in str(failed)
            assert "Enable JetStream" not in str(findings)


async def test_violation_of_a_request_has_the_subject_as_it_was_sent(tmp_path: Path) -> None:
    violations: list[tuple[str, str]] = []
    async with (
        restricted(tmp_path, "other") as (server, _),
        connected(NatsSettings(servers=[server.url], **LOGIN)) as connection,
    ):
        connection.on_violation = lambda action, subject: violations.append((action, subject))
        with pytest.raises(PermissionDeniedError, match=r"\$JS\.API\.STREAM\.INFO\.Orders"):
            await connection.jetstream().stream_info("Orders")
    assert violations == [("publish", "$JS.API.STREAM.INFO.Orders")]


async def test_denied_inbox_is_reported(tmp_path: Path, memory: MemoryContext) -> None:
    async with restricted(tmp_path, *DOCUMENTED, subscribe="_OTHER.>") as (server, _):
        async with running(server, memory, **LOGIN, **FAST) as run:
            await until(lambda: "denies subscribing to _INBOX" in run.reason, "the report", 4)
            assert "Enable JetStream" not in run.reason
        async with running(server, memory, **LOGIN, **FAST, inbox_prefix="_OTHER") as run:
            await until(lambda: run.status == "running", "the other prefix")


async def test_denied_core_subject_is_reported(tmp_path: Path, memory: MemoryContext) -> None:
    async with (
        restricted(tmp_path, *DOCUMENTED) as (server, _),
        running(server, memory, **LOGIN, **FAST, subjects=["audit.>"]) as run,
    ):
        await until(lambda: "denies subscribing to audit.>" in run.reason, "the report")
