"""How a source is called."""

import inspect
from typing import Any

from almenara.hookspecs import Publish, SourceReport


async def start_source(source: Any, publish: Publish, report: SourceReport) -> None:
    """Run a source, with its report where it has a parameter for it."""
    if "report" in inspect.signature(source.run).parameters:
        await source.run(publish, report=report)
    else:
        await source.run(publish)
