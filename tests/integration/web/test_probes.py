"""Probes and metrics."""

import pytest

from support.application import Almenara
from support.planning_stream import publish_planning
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


async def test_probes_and_metrics_respond_without_upstream(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    await publish_planning(nats_server, b"{}", b'{"broken": ')
    almenara.wait_for_events(2)
    nats_server.stop()
    assert almenara.status("/healthz") == 200
    assert almenara.status("/readyz") == 200
    metrics = almenara.text("/metrics")
    assert 'almenara_source_events_total{source="nats"} 2.0' in metrics
    assert 'almenara_source_rejected_total{source="nats"} 1.0' in metrics
    assert "almenara_loop_lag_seconds" in metrics
