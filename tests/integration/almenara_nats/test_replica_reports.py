"""What a running replica reports of another one, on a real nats-server."""

from pathlib import Path
from typing import Any

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
        replicated_almenara(nats_server, tmp_path / "a", "a") as first,
        replicated_almenara(nats_server, tmp_path / "b", "b", **other) as second,
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


async def test_replicas_report_the_same_status_of_a_source(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    ray = {"plugins": {"ray": {"clusters": [{"name": "lab", "url": "http://127.0.0.1:1"}]}}}
    with (
        replicated_almenara(nats_server, tmp_path / "a", "a", **ray) as first,
        replicated_almenara(nats_server, tmp_path / "b", "b", **ray) as second,
    ):
        applications = {"a": first, "b": second}

        def read_sources(one: Almenara) -> dict[str, dict[str, Any]]:
            answer = httpx.get(f"{one.url}/api/sources", timeout=60.0).json()
            return {source["name"]: source for source in answer}

        def find_states() -> list[tuple[str, str, str]]:
            known = [read_sources(one) for one in applications.values()]
            return [
                (source["replica"], source["status"], source["error"] or "")
                for sources in known
                for source in (sources["ray/lab"],)
            ]

        def is_reported() -> bool:
            one, other = find_states()
            # The error counts attempts.
            return one[:2] == other[:2] and all("refused" in error for _, _, error in (one, other))

        await until(is_reported, "the state of the source on both", 120.0)
        holder = find_states()[0][0]
        other = applications.pop(next(name for name in applications if name != holder))
        assert read_sources(other)["ray/lab"]["is_reported"]
        assert not read_sources(applications[holder])["ray/lab"]["is_reported"]
        assert httpx.get(f"{other.url}/api/health", timeout=60.0).json()["status"] == "degraded"
        applications[holder].kill()
        await until(lambda: not read_sources(other)["ray/lab"]["is_reported"], "a takeover", 120.0)
        await until(
            lambda: read_sources(other)["ray/lab"]["status"] == "degraded", "its state", 120.0
        )
