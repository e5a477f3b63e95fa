"""Replicas of one bus: each with a folder of its own, on a real nats-server."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from almenara.bus.event_ids import read_ids
from almenara.bus.log_message import LogBatch, PartAssembler, decode_batch
from almenara.bus.shared import SharedBus
from almenara.config import StorageSettings
from almenara.errors import Unavailable
from almenara.shared_log import LogSession
from almenara_nats.bus_log import JetStreamLog
from almenara_nats.bus_settings import JetStreamBusSettings
from almenara_nats.settings import NatsSettings
from support.application import Almenara
from support.servers import NatsServer

BUS_SECRET = "a-secret-that-the-replicas-of-these-tests-share"
COMPARED = (
    "SELECT sequence, id, subject, time, severity, data FROM events ORDER BY sequence",
    "SELECT sequence, body FROM observations ORDER BY sequence",
    "SELECT plugin, key, value FROM plugin_state ORDER BY plugin, key",
    "SELECT source, kind, namespace, name FROM known_resources ORDER BY 1, 2, 3, 4",
    "SELECT text, uses FROM names ORDER BY text",
    "SELECT slot, severity, sum(events) FROM event_counts WHERE level = 0 GROUP BY 1, 2",
    "SELECT last_sequence, seen_generation, seen_count, events FROM position",
)
"""What must be equal on all replicas."""


def shared_log(*servers: NatsServer | str, **settings: Any) -> JetStreamLog:
    """Return the log of some servers, given as such or by their addresses, with one copy."""
    settings.setdefault("replicas", 1)
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return JetStreamLog(NatsSettings(servers=urls), JetStreamBusSettings(**settings))


@asynccontextmanager
async def replica(
    server: NatsServer | list[str], folder: Path, start_patience: float = 10.0, **storage: Any
) -> AsyncIterator[SharedBus]:
    """Run the bus of one replica; of several servers it uses the first that works."""
    servers = server if isinstance(server, list) else [server]
    settings = StorageSettings(dir=folder, write_retry_interval=0.1, **storage)
    async with SharedBus(settings, shared_log(*servers), start_patience=start_patience) as bus:
        yield bus


def replicated_almenara(server: NatsServer, folder: Path, name: str, **config: Any) -> Almenara:
    """Return an application that shares the bus of the server."""
    bus = {
        "kind": "jetstream", "replica": name, "secret": BUS_SECRET, "settings": {"replicas": 1},
        "snapshot_interval": 2,
    }  # fmt: skip
    return Almenara(folder, server.url, config={"bus": bus, **config})


async def read_log(*servers: NatsServer | str) -> list[tuple[int, LogBatch]]:
    """Return every batch of the bus, and when it was stored, in microseconds."""
    async with shared_log(*servers).connect() as session:
        bounds = await session.bounds()
        batches = []
        async with aclosing(_read_batches(session, bounds.first)) as reading:
            async for position, read in reading:
                batches += read
                if position >= bounds.last:
                    break
    return batches


async def wait_for_batches(origins: Collection[str], *servers: NatsServer) -> None:
    """Return once the bus has stored another batch with signals of each origin."""
    missing = set(origins)
    while missing:
        # A server that has just started refuses requests for a while.
        with suppress(Unavailable, TimeoutError):
            async with shared_log(*servers).connect() as session:
                bounds = await session.bounds()
                async with aclosing(_read_batches(session, bounds.last + 1)) as reading:
                    async for _, read in reading:
                        missing -= {batch.origin for _, batch in read if batch.signals}
                        if not missing:
                            return
        await asyncio.sleep(0.2)


async def _read_batches(
    session: LogSession, first: int
) -> AsyncGenerator[tuple[int, list[tuple[int, LogBatch]]], None]:
    """Yield positions of the bus, each with the batches up to it and when they were stored."""
    assembler = PartAssembler()
    async with aclosing(session.read(first)) as reading:
        async for messages in reading:
            batches = []
            for message in messages:
                completed = assembler.add(message)
                if completed is not None:
                    batches.append((message.stored_at // 1_000, decode_batch(completed[1])))
            if messages:
                yield messages[-1].position, batches


def read_tables(folder: Path) -> dict[str, list[Any]]:
    """Return what is compared of the database in a folder, by statement."""
    with closing(sqlite3.connect(folder / "almenara.db")) as connection:
        tables = {statement: connection.execute(statement).fetchall() for statement in COMPARED}
        return {**tables, "ids": sorted(read_ids(connection))}


async def create_stream(servers: Sequence[NatsServer], patience: float) -> None:
    """Create the stream of a bus on a cluster, once that has a leader."""
    log = shared_log(*servers, replicas=3)
    async with asyncio.timeout(patience):
        while True:
            try:
                await log.prepare()
            except Unavailable:
                await asyncio.sleep(0.5)
            else:
                return
