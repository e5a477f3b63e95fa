from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from almenara.testing.source_run import MemoryContext
from support.servers import NatsServer


@pytest.fixture
def memory(tmp_path: Path) -> MemoryContext:
    return MemoryContext(tmp_path)


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Any]:
    connection = await nats.connect(nats_server.url)
    yield connection
    await connection.close()
