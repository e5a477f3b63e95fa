"""Servers in operator mode: accounts and users by signed tokens."""

import json
from pathlib import Path
from typing import Any

import nats
import pytest

from almenara.testing.source_run import MemoryContext
from almenara_nats.doctor import diagnose
from almenara_nats.settings import NatsSettings
from support.nats_operator import Account, configure_operator
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

FEWEST: dict[str, Any] = {
    "pub": {"allow": [
        "$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.LIST.*",
        "$JS.API.CONSUMER.INFO.*.almenara", "$JS.API.CONSUMER.CREATE.*.almenara",
        "$JS.API.CONSUMER.CREATE.*.almenara.>", "$JS.API.CONSUMER.DURABLE.CREATE.*.almenara",
        "$JS.API.CONSUMER.DELETE.*.almenara", "$JS.API.CONSUMER.RESET.*.almenara",
        "$JS.API.CONSUMER.MSG.NEXT.*.almenara", "$JS.ACK.*.almenara.>",
    ]},
    "sub": {"allow": ["_INBOX.>"]},
}  # fmt: skip
"""The documented permissions."""


async def fill(server: NatsServer, account: Account, path: Path, stream: str) -> None:
    client = await nats.connect(server.url, user_credentials=str(account.write_credentials(path)))
    await client.jetstream().add_stream(name=stream, subjects=[stream.lower()])
    await publish_numbers(client.jetstream(), stream.lower(), range(3))
    await client.close()


async def test_account_is_read_alone_with_the_fewest_permissions(
    tmp_path: Path, memory: MemoryContext
) -> None:
    server = NatsServer(tmp_path / "nats")
    accounts = configure_operator(server.config, "A", "B")
    with server:
        for name, account in accounts.items():
            await fill(server, account, tmp_path / f"{name}.creds", f"OF_{name}")
        credentials = accounts["A"].write_credentials(tmp_path / "reader.creds", **FEWEST)
        settings = {"servers": [server.url], "credentials": credentials}
        async with running(server, memory, **settings) as run:
            await until(lambda: sorted(run.numbers) == [0, 1, 2], "the messages of A")
            await until(lambda: run.status_of("nats.stream", "OF_A") == "ok", "the stream of A")
            assert run.resource("nats.stream", "OF_B") is None
            assert run.status == "running"
            assert not run.reasons
        findings = await diagnose(NatsSettings(**settings))
        assert {finding.verdict for finding in findings} == {"ok"}, findings


async def test_user_of_another_operator_is_refused_with_a_reason(
    tmp_path: Path, memory: MemoryContext
) -> None:
    server = NatsServer(tmp_path / "nats")
    configure_operator(server.config, "A")
    other = tmp_path / "other.conf"
    other.write_text("")
    stranger = configure_operator(other, "A")["A"].write_credentials(tmp_path / "other.creds")
    settings = {"servers": [server.url], "credentials": stranger}
    with server:
        async with running(server, memory, **settings) as run:
            await until(lambda: "Authorization Violation" in run.reason, "the reason")
        findings = await diagnose(NatsSettings(**settings))
    assert {finding.verdict for finding in findings} == {"failed"}
    published = json.dumps([run.reasons, [finding.message for finding in findings]])
    secrets = [line for line in stranger.read_text().splitlines() if line and "--" not in line]
    assert len(secrets) == 2
    assert not any(secret in published for secret in secrets)
