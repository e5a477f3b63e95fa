"""What a running replica reports of another one with other settings, on a real nats-server."""

from pathlib import Path

import httpx
import pytest

from support.application import Almenara
from support.nats_source import until
from support.replicas import replicated_almenara, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_running_replica_reports_another_one_with_other_settings(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    other = {"redaction": {"keys": ["pin"]}}
    with (
        replicated_almenara(nats_server, tmp_path / "a", "a").start() as first,
        replicated_almenara(nats_server, tmp_path / "b", "b", **other).start() as second,
    ):
        for one, name in ((first, "b"), (second, "a")):
            expected = f"The replica {name} differs from this replica in redaction."

            def is_reported(one: Almenara = one, expected: str = expected) -> bool:
                warnings = httpx.get(f"{one.url}/api/health", timeout=60.0).json()["warnings"]
                return any(text.startswith(expected) for text in warnings)

            await until(is_reported, "the warning", 120.0)
            assert expected in one.text("/sources")
            assert "almenara_bus_replicas_different 1.0" in one.text("/metrics")
            assert one.log.count("replicas of one bus differ") == 1
