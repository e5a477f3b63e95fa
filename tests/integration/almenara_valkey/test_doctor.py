"""`almenara doctor` about Valkey deployments, and the rules for plugins."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from almenara.config import Secret
from almenara.testing import conformance
from almenara_valkey.doctor import diagnose
from almenara_valkey.settings import DeploymentSettings, ValkeySettings
from support.servers import free_port
from support.valkey import PROGRAM, ValkeyServer, needs_server

pytestmark = [pytest.mark.anyio, needs_server]


async def test_doctor_reports_each_deployment(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "a", "requirepass right") as server:
        password = Secret.of("right")
        deployments = [
            DeploymentSettings(name="good", urls=[server.url], password=password),
            DeploymentSettings(name="refused", urls=[server.url], password=Secret.of("wrong")),
            DeploymentSettings(name="partly", urls=[server.url, "redis://127.0.0.1:1"],
                               password=password),
            DeploymentSettings(name="away", urls=[f"redis://127.0.0.1:{free_port()}"]),
        ]  # fmt: skip
        findings = await diagnose(ValkeySettings(deployments=deployments))
    assert [finding.verdict for finding in findings] == ["ok", "failed", "warning", "failed"]
    assert "servers that answer: 1" in findings[0].message
    assert "refuses the password" in findings[1].message
    assert all(finding.remedy for finding in findings[1:])


@contextlib.contextmanager
def observed() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder)) as server:
        server.call("XGROUP", "CREATE", "orders", "workers", "$", "MKSTREAM")
        yield {
            "deployments": [
                {"name": "lab", "urls": [server.url], "every": 0.1, "key_samples": 3},
                {"name": "away", "urls": ["redis://127.0.0.1:1"], "every": 0.1, "password": "x"},
            ]
        }


if PROGRAM is not None:
    test_valkey_keeps_the_rules = conformance("valkey", observed)
