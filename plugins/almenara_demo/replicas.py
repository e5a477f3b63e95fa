"""The demo with several replicas: a cluster of NATS servers, and replicas behind a balancer."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from almenara_demo.balancer import Balancer
from almenara_demo.processes import (
    DemoError,
    accepts_connections,
    find_free_ports,
    responds,
    run_process,
    wait_for,
)

NATS_SERVERS: Final = 3
RESTART_PAUSE: Final = 3.0
"""Seconds after which a process that has exited is started again."""
LIMIT: Final = 90.0
"""Seconds within which all processes must be ready."""
SHARED_FILE: Final = "bus-key"
"""Name of the file with the secret that the replicas share."""


class Replica(msgspec.Struct, frozen=True):
    """A replica of the demo."""

    name: str
    port: int
    environment: dict[str, str]


@contextlib.asynccontextmanager
async def run_nats_cluster(
    program: str, folder: Path, stopping: asyncio.Event
) -> AsyncIterator[list[str]]:
    """Run a cluster of NATS servers and yield their addresses. Raises `DemoError`."""
    ports = find_free_ports(2 * NATS_SERVERS)
    clients, routes = ports[:NATS_SERVERS], ports[NATS_SERVERS:]
    calls = []
    for number, port in enumerate(clients):
        name = f"nats-{number + 1}"
        config = write_cluster_config(folder, name, port, routes[number], routes)
        calls.append(keep_running(name, folder, [program, "--config", str(config)]))
    async with running(calls):
        for port in clients:
            check = partial(accepts_connections, port)
            await wait_for(check, "the NATS cluster", stopping, LIMIT)
        yield [f"nats://127.0.0.1:{port}" for port in clients]


def write_cluster_config(
    folder: Path, name: str, port: int, own_route: int, routes: Sequence[int]
) -> Path:
    """Write the configuration of one server of the cluster, with its data below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    store = msgspec.json.encode(str(folder.absolute() / name)).decode()
    addresses = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
    path = folder / f"{name}.conf"
    path.write_text(
        f'listen: "127.0.0.1:{port}"\nserver_name: {name}\njetstream {{ store_dir: {store} }}\n'
        f'cluster {{ name: demo, listen: "127.0.0.1:{own_route}", routes: [{addresses}] }}\n'
    )
    return path


@contextlib.asynccontextmanager
async def run_replicas(
    count: int, port: int, folder: Path, environment: Mapping[str, str], stopping: asyncio.Event
) -> AsyncIterator[list[Replica]]:
    """Run replicas behind a balancer on `port`; yield them once all are ready.

    Raises `DemoError`.
    """
    secret = read_bus_secret(folder)
    replicas = []
    for number, own_port in enumerate(find_free_ports(count), start=1):
        name = f"replica-{number}"
        own = {
            "ALMENARA_BUS__KIND": "jetstream",
            "ALMENARA_BUS__SECRET": secret,
            "ALMENARA_BUS__REPLICA": name,
            "ALMENARA_STORAGE__DIR": str(folder / name),
            "ALMENARA_SERVER__PORT": str(own_port),
        }
        replicas.append(Replica(name, own_port, {**environment, **own}))
    await apply_streams(replicas[0].environment, stopping)
    serve = [sys.executable, "-m", "almenara", "serve"]
    calls = [keep_running(each.name, folder, serve, each.environment) for each in replicas]
    balancer = Balancer(port, [replica.port for replica in replicas])
    async with running([*calls, balancer.run()]):
        for replica in replicas:
            check = partial(responds, f"http://127.0.0.1:{replica.port}/readyz")
            await wait_for(check, replica.name, stopping, LIMIT)
        check = partial(responds, f"http://127.0.0.1:{port}/readyz")
        await wait_for(check, "the balancer", stopping, LIMIT)
        yield replicas


def read_bus_secret(folder: Path) -> str:
    """Return the secret that the replicas share; the first demo in the folder creates it."""
    path = folder / SHARED_FILE
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text().strip()


async def apply_streams(environment: Mapping[str, str], stopping: asyncio.Event) -> None:
    """Create the stream of the bus, once the cluster has a leader. Raises `DemoError`."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + LIMIT
    while not stopping.is_set():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "almenara", "streams", "apply", env=dict(environment),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        if not process.returncode:
            return
        if clock() > deadline:
            reason = errors.decode("utf-8", "replace").strip()
            raise DemoError(f"the stream of the bus could not be created: {reason}")


async def keep_running(
    name: str,
    folder: Path,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a process until cancelled, and start it again where it exits."""
    is_first = True
    while True:
        async with run_process(name, folder, command, environment, append=not is_first) as process:
            status = await process.wait()
        is_first = False
        click.echo(f"  {name} exited with status {status} and is started again.")
        await asyncio.sleep(RESTART_PAUSE)


@contextlib.asynccontextmanager
async def running(calls: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run calls beside the block, and cancel them with it."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
