from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_neo4j.settings import DeploymentSettings
from almenara_neo4j.source import Neo4jSource
from support.certificates import issue_self_signed
from support.neo4j import Neo4jServer
from support.server_process import PatientRun

Run = Callable[..., AbstractAsyncContextManager[SourceRun]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neo4jServer]:
    """One server for all tests, which starts slowly: with a password, and with TLS on request."""
    folder = tmp_path_factory.mktemp("neo4j")
    issue_self_signed(folder, 2)
    settings = {
        "server.bolt.tls_level": "OPTIONAL",
        "dbms.ssl.policy.bolt.enabled": "true",
        "dbms.ssl.policy.bolt.base_directory": str(folder),
        "dbms.ssl.policy.bolt.private_key": "key.pem",
        "dbms.ssl.policy.bolt.public_certificate": "cert.pem",
        "dbms.ssl.policy.bolt.client_auth": "NONE",
    }
    with Neo4jServer(folder, "right-password", settings) as server:
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the source of a deployment named `lab`, which observes often."""
    context = MemoryContext(tmp_path / "context")

    @asynccontextmanager
    async def run_source(*urls: str, **options: Any) -> AsyncIterator[SourceRun]:
        settings = DeploymentSettings(
            name="lab", urls=list(urls), **{"every": 0.2, "timeout": 2.0, **options}
        )
        async with PatientRun(Neo4jSource(settings, context), bus=context.bus) as source_run:
            yield source_run

    return run_source
