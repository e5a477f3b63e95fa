"""Where the demo stores the context graph of the fleet: a real Neo4j, or a file in its place."""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from almenara_demo.context_graph import ContextGraph, GraphWriter
from almenara_demo.processes import find_free_ports, locate, run_process

INTERVAL: Final = 1.0
"""Seconds between two times that the graph is stored."""
NAME: Final = "context"
FILE: Final = "context-graph.json"


@contextlib.asynccontextmanager
async def store_context(
    graph: ContextGraph, program: Path | None, folder: Path
) -> AsyncIterator[list[dict[str, Any]]]:
    """Store the graph as it changes; yields the deployments for the Neo4j plugin.

    With the path of a `program` it runs a real server. Without the library of the plugin there is
    nothing that could show the graph, so nothing is stored.
    """
    if importlib.util.find_spec("neo4j") is None:
        yield []
        return
    graphs = [{"name": NAME, "every": 1.0}]
    if program is None:
        path = locate(folder, FILE)
        await asyncio.to_thread(write_file, path, graph.encode())
        async with _run(_write_file(graph, path)):
            yield [
                {
                    "name": NAME, "urls": ["bolt://simulated"], "simulated": str(path),
                    "graphs": graphs,
                }
            ]  # fmt: skip
        return
    (port,) = find_free_ports(1)
    command = [str(program), str(locate(folder, "neo4j")), str(port)]
    url = f"bolt://127.0.0.1:{port}"
    async with (
        run_process("neo4j", folder, [*command, "dbms.security.auth_enabled=false"]),
        _run(_write_database(graph, url)),
    ):
        yield [{"name": NAME, "urls": [url], "graphs": graphs}]


@contextlib.asynccontextmanager
async def _run(work: Any) -> AsyncIterator[None]:
    """Run a coroutine for as long as the block."""
    task = asyncio.create_task(work, name="context graph")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file; a reader finds the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


async def _write_file(graph: ContextGraph, path: Path) -> None:
    changes = -1
    while True:
        if changes != graph.changes:
            changes = graph.changes
            await asyncio.to_thread(write_file, path, graph.encode())
        await asyncio.sleep(INTERVAL)


async def _write_database(graph: ContextGraph, url: str) -> None:
    """Bring the database to the state of the graph, again and again; errors, as before the server
    is up, start it over."""
    import neo4j

    while True:
        driver = neo4j.AsyncGraphDatabase.driver(url, connection_timeout=2.0)
        try:
            async with driver.session() as session:
                await (await session.run("MATCH (n) DETACH DELETE n")).consume()
                writer = GraphWriter(graph)
                while True:
                    for query, parameters in writer.statements():
                        await (await session.run(query, parameters)).consume()
                    await asyncio.sleep(INTERVAL)
        except (neo4j.exceptions.DriverError, neo4j.exceptions.Neo4jError, OSError):
            await asyncio.sleep(INTERVAL)
        finally:
            await driver.close()
