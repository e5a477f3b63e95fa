from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_valkey.settings import DeploymentSettings
from almenara_valkey.source import ValkeySource

Run = Callable[..., AbstractAsyncContextManager[SourceRun]]


class PatientRun(SourceRun):
    """A run that waits longer for conditions: servers start and fail over meanwhile."""

    async def until(self, condition: Callable[[], bool], patience: float = 60.0) -> None:
        await super().until(condition, patience)


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
