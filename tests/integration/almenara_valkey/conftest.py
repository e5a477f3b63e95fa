from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_valkey.settings import DeploymentSettings
from almenara_valkey.source import ValkeySource
from support.server_process import PatientRun

Run = Callable[..., AbstractAsyncContextManager[SourceRun]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the source of a deployment named `lab`, which observes often."""
    context = MemoryContext(tmp_path / "context")

    @asynccontextmanager
    async def run_source(*urls: str, **options: Any) -> AsyncIterator[SourceRun]:
        settings = DeploymentSettings(
            name="lab", urls=list(urls), **{"every": 0.1, "timeout": 0.5, **options}
        )
        async with PatientRun(ValkeySource(settings, context), bus=context.bus) as source_run:
            yield source_run

    return run_source
