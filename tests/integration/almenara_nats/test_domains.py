"""Streams of another JetStream domain, behind a leaf node."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from almenara.testing.source_run import MemoryContext
from almenara_nats.doctor import diagnose
from almenara_nats.settings import NatsSettings
from support.nats_source import running, until
from support.servers import NatsServer, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def leaf(tmp_path: Path) -> Iterator[NatsServer]:
    """A leaf node with JetStream of its own, connected to a hub with the domain `hub`."""
    hub, leaf, port = NatsServer(tmp_path / "hub"), NatsServer(tmp_path / "leaf"), free_port()
    for server, name, more in (
        (hub, "hub", f'leafnodes {{ listen: "127.0.0.1:{port}" }}'),
        (leaf, "leaf", f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}'),
    ):
        server.config.write_text(
            f'listen: "127.0.0.1:{server.port}"\nserver_name: {name}\n{more}\n'
            f'jetstream {{ store_dir: "{server.folder / "data"}", domain: {name} }}\n'
        )
    with hub, leaf:
        yield leaf


async def test_domain_selects_the_streams_behind_a_leaf_node(
    leaf: NatsServer, memory: MemoryContext
) -> None:
    client: Any = await nats.connect(leaf.url)
    hub, own = client.jetstream(domain="hub"), client.jetstream()
    await own.add_stream(name="LEAF", subjects=["leaf"])
    async with asyncio.timeout(15):
        while True:
            try:
                await hub.add_stream(name="HUB", subjects=["hub"])
                break
            except (nats.errors.Error, TimeoutError):
                # The leaf node is not connected yet.
                await asyncio.sleep(0.05)
    for subject in ("leaf", "hub", "hub"):
        await client.jetstream(domain=subject).publish(subject, b"{}")
    for more in ({"domain": "hub"}, {"api_prefix": "$JS.hub.API"}):
        async with running(leaf, MemoryContext(memory.data_dir), **more) as run:
            await until(lambda: len(run.events) >= 2, "the messages of the hub")
            await until(lambda: run.status_of("nats.stream", "HUB") == "ok", "its stream")
            assert {event.origin for event in run.events} == {"nats/HUB"}
            assert run.resource("nats.stream", "LEAF") is None
        async with asyncio.timeout(10):
            while (await hub.consumer_info("HUB", "almenara")).ack_floor.stream_seq < 2:
                await asyncio.sleep(0.02)
        findings = await diagnose(NatsSettings(servers=[leaf.url], **more))
        assert "stream HUB" in [finding.check for finding in findings]
        assert {finding.verdict for finding in findings} == {"ok"}
    async with running(leaf, MemoryContext(memory.data_dir)) as run:
        await until(lambda: len(run.events) == 1, "the message of the leaf node")
        assert run.events[0].origin == "nats/LEAF"
    await client.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"domain": "hub", "api_prefix": "x"}, "not both"),
        ({"domain": "a.b"}, "domain must be"),
        ({"domain": "*"}, "domain must be"),
        ({"api_prefix": "js..api"}, "api_prefix must be"),
        ({"api_prefix": "js.>"}, "api_prefix must be"),
    ],
)
def test_invalid_prefix_is_refused(settings: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        NatsSettings(**settings)
