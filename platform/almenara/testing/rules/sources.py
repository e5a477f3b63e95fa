"""Rules about the sources of a plugin."""

import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.errors import describe_error
from almenara.signals import Event, Resource, Signal
from almenara.supervisor.watchdog import Heartbeat
from almenara.testing.rules.subject import RUN_TIME, Skip, Subject, let_run, memory_context
from almenara.testing.source_run import SourceRun

BLOCK_LIMIT: Final = 0.25
"""Seconds for which a source may block its event loop."""
CHECK_INTERVAL: Final = 0.02
DELETE_TIMEOUT: Final = 5.0
"""Seconds after its start within which a source deletes what disappeared."""
GHOST: Final = "resource-that-disappeared"
"""The name of a resource that an earlier run has published and that no longer exists."""


async def names_its_sources(subject: Subject) -> None:
    with memory_context() as context:
        sources = subject.require_sources(context)
    names = [getattr(source, "name", "") or subject.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise AssertionError(f"two of its sources are named {name!r}; names must be unique")


async def ends_when_cancelled(subject: Subject) -> None:
    with memory_context() as context:
        for source in subject.require_sources(context):
            run = SourceRun(source, bus=context.bus).start()
            await let_run(run, RUN_TIME / 2)
            if run.task is not None and run.task.done() and not run.task.cancelled():
                if (error := run.task.exception()) is not None:
                    reason = describe_error(error, with_type=True)
                    raise AssertionError(f"its run() raised {reason}")
                raise AssertionError("its run() returned; it must run until it is cancelled")
            leftovers = await run.stop()
            if leftovers:
                raise AssertionError(
                    f"it left tasks running: {', '.join(leftovers)}; start tasks in an"
                    " asyncio.TaskGroup"
                )


async def runs_again_on_another_event_loop(subject: Subject) -> None:
    """The supervisor starts a source that failed again, in a thread of its own."""
    with memory_context() as context:
        for source in subject.require_sources(context):
            run = SourceRun(source, bus=context.bus).start()
            await let_run(run, RUN_TIME / 2)
            await run.stop()
            again = SourceRun(source, bus=context.bus)
            error = await asyncio.to_thread(asyncio.run, _run_once(again))
            if error is not None:
                reason = describe_error(error, with_type=True)
                raise AssertionError(
                    f"its run() raised {reason} when it was started again on another event loop;"
                    " create events, locks and semaphores in run()"
                )


async def _run_once(run: SourceRun) -> BaseException | None:
    run.start()
    await let_run(run, RUN_TIME / 2)
    task = run.task
    error = task.exception() if task is not None and task.done() and not task.cancelled() else None
    await run.stop()
    return error


async def does_not_block(subject: Subject) -> None:
    heartbeat = Heartbeat()
    stack: list[str] = []
    is_over = threading.Event()

    def watch() -> None:
        before = time.monotonic()
        while not is_over.wait(CHECK_INTERVAL):
            # On a busy machine this thread is late as well, which is not the source's fault.
            late = time.monotonic() - before - CHECK_INTERVAL
            before = time.monotonic()
            if heartbeat.blocked_for() - late > BLOCK_LIMIT and not stack:
                stack.extend(heartbeat.stack() or ["code that is not Python"])

    with memory_context() as context:
        sources = subject.require_sources(context)
        # A collection of the garbage of earlier tests can take longer than a source may block.
        gc.collect()
        gc.freeze()
        heartbeat.start(count_tasks=False)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        runs = [SourceRun(source, bus=context.bus).start() for source in sources]
        try:
            await asyncio.sleep(RUN_TIME)
            for run in runs:
                await run.stop()
        finally:
            heartbeat.stop()
            gc.unfreeze()
            is_over.set()
            watcher.join()
    if stack:
        raise AssertionError(
            f"it blocked the event loop for more than {BLOCK_LIMIT:g} s at {stack[-1]}; run"
            " blocking calls in almenara.sdk.blocking or BlockingClient"
        )


async def keeps_identity_over_restarts(subject: Subject) -> None:
    await _run_twice(subject, failing=False)


async def restarts_after_a_failure_without_repeats(subject: Subject) -> None:
    await _run_twice(subject, failing=True)


async def deletes_what_disappeared_while_it_was_stopped(subject: Subject) -> None:
    with memory_context() as context:
        bus = context.bus
        for source in subject.require_sources(context):
            run = SourceRun(source, bus=bus).start()
            await let_run(run)
            await run.stop()
        ghosts = [
            (source, (kind, namespace, GHOST))
            for source, keys in bus.known_resources.items()
            for kind, namespace in dict.fromkeys(key[:2] for key in keys)
        ]
        if not ghosts:
            raise Skip("it published no resource while it was examined")
        for name, key in ghosts:
            bus.known_resources[name][key] = None
        runs = [SourceRun(source, bus=bus).start() for source in subject.require_sources(context)]
        end = time.monotonic() + DELETE_TIMEOUT
        left = ghosts
        while left and time.monotonic() < end:
            await asyncio.sleep(CHECK_INTERVAL)
            left = [(name, key) for name, key in left if key in bus.known_resources[name]]
        for run in runs:
            await run.stop()
    for name, (kind, _, _) in left:
        raise AssertionError(
            f"a resource of kind {kind} that disappeared while source {name} was stopped is still"
            " published; compare context.known_resources(name) with what exists, once, at the"
            " start (Snapshots.restore does it)"
        )


async def publishes_again_what_another_replica_may_have_changed(subject: Subject) -> None:
    """A source that runs again may have run on another replica in the meantime."""
    with memory_context() as context:
        bus = context.bus
        sources = subject.require_sources(context)
        for source in sources:
            run = SourceRun(source, bus=bus).start()
            await let_run(run)
            await run.stop()
        published = len(bus.signals)
        left = {(name, key) for name, keys in bus.known_resources.items() for key in keys}
        if not left:
            raise Skip("it published no resource while it was examined")
        # The same objects: the supervisor keeps them for the next lease.
        runs = [SourceRun(source, bus=bus).start() for source in sources]
        end = time.monotonic() + DELETE_TIMEOUT
        while left and time.monotonic() < end:
            await asyncio.sleep(CHECK_INTERVAL)
            again = {each.key for each in bus.signals[published:] if isinstance(each, Resource)}
            left = {(name, key) for name, key in left if key not in again}
        for run in runs:
            await run.stop()
    for name, (kind, _, _) in left:
        raise AssertionError(
            f"a resource of kind {kind} is not published again when source {name} runs again,"
            " though another replica may have published another state of it meanwhile; call"
            " Snapshots.restore at the start of run(), and create there whatever else remembers"
            " what was published"
        )


class _FailingRun(SourceRun):
    """A run in which publishing fails once, after the bus has stored the first event."""

    has_failed = False

    async def publish(self, batch: Sequence[Signal]) -> None:
        await super().publish(batch)
        if not self.has_failed and any(isinstance(signal, Event) for signal in batch):
            self.has_failed = True
            raise ConnectionError("the bus is unavailable, for a test")


async def _run_twice(subject: Subject, *, failing: bool) -> None:
    """Run the sources twice on the same bus and state, and compare the events."""
    with memory_context() as context:
        bus = context.bus
        for source in subject.require_sources(context):
            run = (_FailingRun if failing else SourceRun)(source, bus=bus).start()
            await let_run(run)
            if run.task is not None and not run.task.done():
                await run.stop()
            elif run.task is not None:
                run.task.exception()
        first = [signal for signal in bus.signals if isinstance(signal, Event)]
        published = len(bus.signals)
        for source in subject.require_sources(context):
            run = SourceRun(source, bus=bus).start()
            await let_run(run)
            await run.stop()
    if not first:
        raise Skip("it published no event while it was examined")
    contents = [_content(event) for event in first]
    # Content that repeats within one run is new each time, such as a heartbeat.
    unique = {content for content in contents if contents.count(content) == 1}
    for signal in bus.signals[published:]:
        if isinstance(signal, Event) and _content(signal) in unique:
            raise AssertionError(
                f"after a restart it published {signal.type} of {signal.subject or 'no subject'}"
                f" again with another id ({signal.id!r}); make the id from what happened, not from"
                " when it was observed, or remember with context.save what was published"
            )


def _content(event: Event) -> tuple[str, str, bytes]:
    """What an event says, without its identity."""
    return event.type, event.subject, msgspec.json.encode(event.data, enc_hook=str)
