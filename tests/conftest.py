from collections.abc import Iterator
from pathlib import Path

import pytest

from app import Almenara
from servers import NatsServer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def almenara(tmp_path: Path, nats_server: NatsServer) -> Iterator[Almenara]:
    with Almenara(tmp_path / "almenara", nats_server.url) as running:
        yield running
