"""The pytest plugin that comes with Almenara: fixtures for tests of sources."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from almenara.testing.clock import ManualClock
    from almenara.testing.processor_run import ProcessorRun
    from almenara.testing.source_run import MemoryContext, SourceRun


@pytest.fixture
def manual_clock() -> "ManualClock":
    """A clock that stands still until `await clock.advance(seconds)`."""
    from almenara.testing.clock import ManualClock

    return ManualClock()


@pytest.fixture
def plugin_context(tmp_path: Path) -> "MemoryContext":
    """What the platform lends to a plugin, in memory."""
    from almenara.testing.source_run import MemoryContext

    return MemoryContext(tmp_path)


@pytest.fixture
def run_source(manual_clock: "ManualClock") -> "Callable[[Any], SourceRun]":
    """Runs a source on `manual_clock`: `async with run_source(source) as run: ...`."""
    from almenara.testing.source_run import SourceRun

    def run(source: Any, **options: Any) -> SourceRun:
        return SourceRun(source, **{"clock": manual_clock, **options})

    return run


@pytest.fixture
def run_processor(manual_clock: "ManualClock") -> "Callable[[Callable[[], Any]], ProcessorRun]":
    """Runs a processor on `manual_clock`: `run = run_processor(MyProcessor)`."""
    from almenara.testing.processor_run import ProcessorRun

    def run(create: Callable[[], Any], **options: Any) -> ProcessorRun:
        return ProcessorRun(create, **{"clock": manual_clock, **options})

    return run
