"""A process that publishes the events of a fleet and derives agents of them, to be killed.

It has the bus and the processor of the application without the rest. The program
`agent_host.py FOLDER EVENTS SETTINGS` forks it, with all modules loaded, and forks it again when it
was killed; beside EVENTS, the file `pid` has the process and `published` the number of stored
events.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.bus import StateChange
from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.processors.source import ProcessorSource
from almenara.signals import Event, Resource, Signal, now
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings

BATCH: Final = 20
PAUSE: Final = 0.03
STREAM: Final = "FLEET"
UNREAD_AFTER: Final = 1_000
"""Events after which their stream cannot be read or, if it could not, can be read again."""


class FleetEvent(msgspec.Struct, array_like=True):
    """An event of the fleet; it happens when it is published."""

    id: str
    type: str
    subject: str
    data: Any


class Report:
    """A report that no one reads."""

    def degraded(self, reason: str) -> None:
        """Raise, since nothing may be skipped."""
        raise RuntimeError(reason)

    def recovered(self) -> None: ...

    def lag(self, messages: int) -> None: ...

    def rejected(self, count: int = 1) -> None: ...


async def _run(folder: Path, path: Path, settings: AgentsSettings) -> None:
    events = msgspec.json.decode(path.read_bytes(), type=list[FleetEvent])
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:

        async def commit(signals: Sequence[Signal], changes: Sequence[StateChange]) -> None:
            await bus.publish(signals, "agents", changes)

        source = ProcessorSource(AgentsProcessor(settings), "agents", bus, grace=0.2)
        async with asyncio.TaskGroup() as group:
            group.create_task(source.run(commit, Report()))
            group.create_task(_publish(bus, events, path.with_name("published")))


async def _publish(bus: EmbeddedBus, events: Sequence[FleetEvent], published: Path) -> None:
    count = int(published.read_text() or "0") if published.exists() else 0
    # What was stored without being noted is published once more, and some of what was noted.
    for start in range(max(count - BATCH, 0), len(events), BATCH):
        batch: list[Signal] = [
            Event(
                id=each.id, source="fleet", origin=f"nats/{STREAM}", type=each.type,
                subject=each.subject, data=each.data, time=now(),
            )
            for each in events[start : start + BATCH]
        ]  # fmt: skip
        if start % UNREAD_AFTER == 0 and start:
            status = "ok" if start // UNREAD_AFTER % 2 == 0 else "unknown"
            batch.append(Resource(kind="nats.stream", name=STREAM, status=status, origin="nats"))
        await bus.publish(batch, "nats")
        _write(published, start + BATCH)
        await asyncio.sleep(PAUSE)


def _write(path: Path, number: int) -> None:
    part = path.with_suffix(".part")
    part.write_text(str(number))
    part.replace(path)


def main() -> None:
    """Run the host until this process is killed."""
    folder, events, encoded = sys.argv[1:]
    settings = msgspec.json.decode(encoded, type=AgentsSettings)
    while True:
        child = os.fork()
        if not child:
            asyncio.run(_run(Path(folder), Path(events), settings))
            return
        _write(Path(events).with_name("pid"), child)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
