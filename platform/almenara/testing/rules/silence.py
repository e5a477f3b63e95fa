"""The rule about a system that has become unreachable: nothing is healthy without an answer."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from almenara.patterns import compile_pattern
from almenara.signals import STALE_SINCE, UNKNOWN, Resource, Sample, Severity, Signal
from almenara.testing.rules.subject import Skip, Subject, memory_context
from almenara.testing.source_run import MemoryBus, SourceRun

START_TIMEOUT: Final = 10.0
"""Real seconds within which a source publishes its first healthy resource."""
SILENCE_TIMEOUT: Final = 30.0
"""Real seconds after which no resource of an unreachable system may claim health."""
SAMPLE_TIME: Final = 1.0
"""Real seconds in which no sample of an unknown resource may be published."""
CHECK_INTERVAL: Final = 0.05


async def shows_what_is_unreachable_as_unknown(subject: Subject) -> None:
    stop_system = subject.stop_system
    if stop_system is None:
        raise Skip("its settings start no system that could be stopped: pass a function")
    with memory_context() as context:
        sources = subject.require_sources(context)
        runs = [SourceRun(source, bus=context.bus).start() for source in sources]
        try:
            if not await _wait(lambda: any(_healthy(context.bus.signals)), START_TIMEOUT):
                raise Skip("it published no healthy resource while it was examined")
            await asyncio.to_thread(stop_system)
            if not await _wait(lambda: not _claims(subject, runs, context.bus), SILENCE_TIMEOUT):
                claim = _claims(subject, runs, context.bus)[0]
                raise AssertionError(
                    f"{SILENCE_TIMEOUT:g} s after its system was stopped, {claim.kind} {claim.name}"
                    f" is still {claim.status or 'without a status'}; publish what"
                    " Snapshots.mark_unknown or almenara.sdk.mark_unknown returns"
                )
            published = len(context.bus.signals)
            await asyncio.sleep(SAMPLE_TIME)
            _check_samples(context.bus, published)
        finally:
            for run in runs:
                await run.stop()


async def _wait(condition: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(CHECK_INTERVAL)
    return True


def _healthy(signals: Sequence[Signal]) -> Iterator[Resource]:
    """The resources, in their last state, that claim health."""
    last = {signal.key: signal for signal in signals if isinstance(signal, Resource)}
    for resource in last.values():
        if not resource.deleted and not _is_unknown(resource) and resource.severity < Severity.WARN:
            yield resource


def _is_unknown(resource: Resource) -> bool:
    return resource.status == UNKNOWN or STALE_SINCE in resource.state


def _claims(subject: Subject, runs: Sequence[SourceRun], bus: MemoryBus) -> list[Resource]:
    """The resources that claim health, of kinds that are not shown to be unknown by another."""
    if all(run.task is not None and run.task.done() for run in runs):
        # What a source has published that does not run is unknown to the platform.
        return []
    healthy = list(_healthy(bus.signals))
    proving = {resource.kind for resource in healthy}
    return [
        resource
        for resource in healthy
        if not any(
            _matches(pattern, resource.kind) and kind != resource.kind and kind not in proving
            for pattern, kind in subject.last_known.items()
        )
    ]


def _matches(pattern: str, kind: str) -> bool:
    expression = compile_pattern(pattern)
    return kind == pattern if expression is None else expression.fullmatch(kind) is not None


def _check_samples(bus: MemoryBus, published: int) -> None:
    """Raise `AssertionError` for a sample of a resource that is unknown."""
    last = {signal.key: signal for signal in bus.signals if isinstance(signal, Resource)}
    for signal in bus.signals[published:]:
        resource = last.get(signal.key) if isinstance(signal, Sample) else None
        if isinstance(signal, Sample) and resource is not None and _is_unknown(resource):
            raise AssertionError(
                f"it published {signal.metric} of {resource.kind} {resource.name}, which is"
                f" {resource.status}; publish no samples of what cannot be read"
            )
