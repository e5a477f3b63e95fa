"""Sentinels and clusters: members are discovered, and a failover is one event."""

from pathlib import Path
from typing import Any

import pytest

from support.servers import wait_until
from support.valkey import ValkeyServer, needs_server, run_cluster, run_servers

pytestmark = [pytest.mark.anyio, needs_server]


async def test_sentinel_failover_is_one_promotion(tmp_path: Path, run: Any) -> None:
    primary = ValkeyServer(tmp_path / "a", "repl-diskless-sync-delay 0")
    replica = ValkeyServer(
        tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0"
    )
    sentinels = [
        ValkeyServer(
            tmp_path / f"s{number}", f"sentinel monitor main 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds main 500", "sentinel failover-timeout main 2000",
            sentinel=True,
        )
        for number in range(3)
    ]  # fmt: skip
    sentinel = sentinels[0]
    with run_servers(primary, replica, *sentinels):
        wait_until(
            lambda: all(
                b"name=main,status=ok" in info and b"slaves=1,sentinels=3" in info
                for info in (each.call("INFO") for each in sentinels)
            ),
            "the sentinels' replica",
            60,
        )
        async with run(sentinel.url) as source:
            await source.until(
                lambda: all(each.address in source.resources for each in (replica, *sentinels))
            )
            await source.until(lambda: source.resources["lab"].status == "ok")
            assert source.resources[sentinel.address].state["role"] == "sentinel"
            primary.kill()
            promoted = "valkey.server.promoted"
            await source.until(lambda: any(event.type == promoted for event in source.events))
            await source.until(
                lambda: source.resources["lab"].state.get("primaries") == replica.address
            )
            assert source.resources[primary.address].status == "unreachable"
            sentinels[2].kill()
            await source.until(
                lambda: source.resources[sentinels[2].address].status == "unreachable"
            )
    events = [event for event in source.events if event.type == promoted]
    assert [event.subject for event in events] == [replica.address]


async def test_cluster_is_discovered_from_one_node(tmp_path: Path, run: Any) -> None:
    with run_cluster(tmp_path) as nodes:
        async with run(nodes[0].url, streams=["orders"]) as source:
            await source.until(lambda: all(node.address in source.resources for node in nodes))
            await source.until(lambda: source.resources["lab"].status == "ok")
            assert source.resources["lab"].state["mode"] == "cluster"
            for node in nodes:
                try:
                    node.call("XGROUP", "CREATE", "orders", "workers", "$", "MKSTREAM")
                except Exception as error:
                    assert "MOVED" in str(error) or "127.0.0.1" in str(error)
            await source.until(lambda: "orders/workers" in source.resources)
            nodes[2].kill()
            await source.until(lambda: source.resources[nodes[2].address].status == "unreachable")
            await source.until(
                lambda: source.resources[nodes[0].address].status == "cluster failed"
            )
