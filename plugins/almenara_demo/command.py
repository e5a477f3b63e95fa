"""`almenara demo`: everything one needs to see Almenara at work, on one machine."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from almenara.sdk import honor_cancellation
from almenara_demo.fleet import Fleet, Message
from almenara_demo.ray_cluster import NAME as SIMULATED
from almenara_demo.ray_cluster import simulated
from almenara_demo.real_ray import real

PATIENCE: Final = 30.0
GRACE: Final = 20.0
LAST_LINES: Final = 15
BURST: Final = 200
STREAMS: Final = {
    "PLANNING_EVENTS": "planning.>",
    "ORCHESTRATOR_EVENTS": "orchestration.>",
    "CONTEXT_EVENTS": "context.>",
    "AGENT_RESULTS": "agent.>",
    "VLLM_STREAMING": "vllm.streaming.*",
    "DEAD_LETTERS": "deadletter",
}
KEPT: Final = 7 * 86400
SIMULATED_PODS: Final = 180
FORGETFUL: Final = "context-indexer"
"""A consumer that now and then stops acknowledging, so that a stalled one can be seen."""


class DemoError(RuntimeError):
    """The demo cannot go on; the text says why and what to do."""


@click.command()
@click.option("--rate", default=20.0, show_default=True, type=click.FloatRange(0.1, 20000),
              help="Events a second.")  # fmt: skip
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535),
              help="Port of the dashboard.")  # fmt: skip
@click.option("--nats-port", default=0, type=click.IntRange(0, 65535),
              help="Port of the NATS server; 0 lets the system choose.")  # fmt: skip
@click.option("--data-dir", default="var/demo", show_default=True, help="Where everything is kept.",
              type=click.Path(file_okay=False, path_type=Path))  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Settles what the fleet does.")
@click.option("--ray", default=None, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Program `ray`, to run a real cluster instead of a simulated one.")  # fmt: skip
def demo(
    rate: float, port: int, nats_port: int, data_dir: Path, seed: int, ray: Path | None
) -> None:
    """Run a NATS server, a simulated fleet, a Ray cluster and the dashboard until interrupted.

    What happened is kept in the data folder, and the next demo goes on from there.
    """
    try:
        asyncio.run(run(rate, port, nats_port, data_dir, seed, ray))
    except* DemoError as group:
        raise click.ClickException(str(group.exceptions[0])) from None


async def run(
    rate: float, port: int, nats_port: int, data_dir: Path, seed: int, ray: Path | None = None
) -> None:
    """The demo, until SIGINT or SIGTERM."""
    check_port(port)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    nats_port = nats_port or free_port()
    config = write_config(data_dir, nats_port)
    url = f"nats://127.0.0.1:{nats_port}"
    environment = {
        **os.environ,
        "ALMENARA_PLUGINS__NATS__SERVERS": f'["{url}"]',
        "ALMENARA_STORAGE__DIR": str(data_dir / "almenara"),
        "ALMENARA_SERVER__PORT": str(port),
        **kubernetes(),
    }
    address = f"http://127.0.0.1:{port}"
    async with (
        child("nats-server", data_dir, [nats_server(), "--config", str(config)]) as nats,
        stopping_on(told, nats),
        ray_cluster(ray, data_dir, seed) as cluster,
    ):
        await until(lambda: accepts(nats_port), "nats-server", nats, told)
        await create_streams(url)
        serve = [sys.executable, "-m", "almenara", "serve"]
        environment["ALMENARA_PLUGINS__RAY__CLUSTERS"] = msgspec.json.encode([cluster]).decode()
        async with child("almenara", data_dir, serve, environment) as almenara:
            await until(lambda: answers(f"{address}/readyz"), "almenara", almenara, told)
            if not told.is_set():
                click.echo(f"\n  Almenara is at {address}\n\n  A fleet publishes {rate:g} events a"
                           f" second to {url}.\n  Press Ctrl-C to end it all.\n")  # fmt: skip
            publishing = asyncio.create_task(publish_for_ever(url, rate, seed))
            forgetting = asyncio.create_task(forget(url))
            dying = [
                asyncio.create_task(died(name, process, data_dir))
                for name, process in (("nats-server", nats), ("almenara", almenara))
            ]
            asked = asyncio.create_task(told.wait())
            tasks = [publishing, forgetting, *dying, asked]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            click.echo("Stopping.")


def kubernetes() -> dict[str, str]:
    """The settings that show the cluster kubectl would talk to or, without one, a simulated one."""
    named = [it for it in os.environ.get("KUBECONFIG", "").split(os.pathsep) if it]
    usual = Path.home() / ".kube" / "config"
    if any(Path(it).is_file() for it in named or [str(usual)]):
        return {"ALMENARA_PLUGINS__KUBERNETES__CLUSTERS": "[{}]"}
    return {"ALMENARA_PLUGINS__KUBERNETES__SIMULATED": str(SIMULATED_PODS)}


def write_config(folder: Path, port: int) -> Path:
    """The configuration of the server, with its data below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    store = msgspec.json.encode(str(folder.absolute() / "nats")).decode()
    path = folder / "nats.conf"
    path.write_text(
        f'listen: "127.0.0.1:{port}"\nserver_name: demo\njetstream {{ store_dir: {store} }}\n'
    )
    return path


@contextlib.asynccontextmanager
async def ray_cluster(ray: Path | None, folder: Path, seed: int) -> AsyncIterator[dict[str, Any]]:
    """A Ray cluster, simulated or real, as the configuration of the Ray plugin has it."""
    if ray is None:
        port = free_port()
        async with simulated(port, seed):
            yield {"name": SIMULATED, "url": f"http://127.0.0.1:{port}", "simulated": True}
        return
    async with real(ray, folder) as head:
        yield head


@contextlib.asynccontextmanager
async def stopping_on(told: asyncio.Event, nats: Process) -> AsyncIterator[None]:
    """Turns what a request to stop interrupts into an end without an error."""
    try:
        yield
    except DemoError:
        if not told.is_set():
            raise


@contextlib.asynccontextmanager
async def child(
    name: str, folder: Path, command: list[str], environment: dict[str, str] | None = None
) -> AsyncIterator[Process]:
    """A process with its output in a file, ended with the block."""
    with (folder / f"{name}.log").open("wb") as log:
        # A session of its own, so that Ctrl-C reaches us alone and the order of ending is ours.
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        await end(process)


async def end(process: Process) -> None:
    """Ask a process to end, and make it where it does not."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(GRACE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def died(name: str, process: Process, folder: Path) -> None:
    """Raise `DemoError` once a process ended by itself."""
    status = await process.wait()
    raise DemoError(ended(name, status, folder))


def ended(name: str, status: int, folder: Path) -> str:
    """What to say of a process that should still run."""
    lines = (folder / f"{name}.log").read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
    return f"{name} ended with status {status}. Its last words:\n" + "\n".join(lines)


async def until(
    ready: Callable[[], bool], name: str, process: Process, told: asyncio.Event
) -> None:
    """Return when `ready()`; raise `DemoError` where the process ends or takes too long."""
    end_time = asyncio.get_running_loop().time() + PATIENCE
    while not await asyncio.to_thread(ready):
        if told.is_set():
            raise DemoError("interrupted")
        if process.returncode is not None:
            raise DemoError(f"{name} ended with status {process.returncode}; its log says why")
        if asyncio.get_running_loop().time() > end_time:
            raise DemoError(f"{name} was not ready within {PATIENCE:g} s; its log may say why")
        await asyncio.sleep(0.05)


def check_port(port: int) -> None:
    """Raise `DemoError` where the port is taken."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            raise DemoError(
                f"Port {port} is in use. Stop what uses it, or choose another:"
                " almenara demo --port 8090 (make run PORT=8090)."
            ) from None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def nats_server() -> str:
    """The nats-server beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise DemoError("nats-server is not installed; install Almenara with its extra `demo`.")
    return found


def accepts(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def answers(address: str) -> bool:
    """Whether an address answers with success."""
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310  # nosec B310 # http and https only
            return True
    except (urllib.error.URLError, OSError):
        return False


async def create_streams(url: str) -> None:
    """The fleet's streams."""
    import nats
    from nats.js.api import StreamConfig

    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        for name, subjects in STREAMS.items():
            await jetstream.add_stream(
                StreamConfig(name=name, subjects=[subjects], max_age=KEPT, max_bytes=1024**3)
            )
    finally:
        await client.close()


async def publish_for_ever(url: str, rate: float, seed: int) -> None:
    """Publish what the fleet says, at its pace, until cancelled."""
    import nats

    client = await honor_cancellation(nats.connect(url, max_reconnect_attempts=-1))
    try:
        jetstream = client.jetstream()
        clock = asyncio.get_running_loop().time
        due = clock()
        burst: list[Message] = []
        for message in Fleet(seed).messages(rate):
            due += message.wait
            burst.append(message)
            ahead = due - clock()
            if ahead <= 0 and len(burst) < BURST:
                continue
            async with asyncio.TaskGroup() as group:
                for it in burst:
                    group.create_task(
                        jetstream.publish(it.subject, it.payload, headers=it.headers or None)
                    )
            burst.clear()
            await asyncio.sleep(max(ahead, 0))
    finally:
        await client.close()


async def forget(url: str) -> None:
    """A consumer of one stream that works for a while and then acknowledges nothing."""
    import nats

    client = await honor_cancellation(nats.connect(url, max_reconnect_attempts=-1))
    try:
        subscription = await honor_cancellation(
            client.jetstream().pull_subscribe(
                "context.>", durable=FORGETFUL, stream="CONTEXT_EVENTS"
            )
        )
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            working = int((clock() - began) // 90) % 2 == 0
            # The library's own TimeoutError is one of these, and it raises the plain one as well.
            with contextlib.suppress(TimeoutError):
                for message in await honor_cancellation(subscription.fetch(20, timeout=2)):
                    if working:
                        await message.ack()
            await asyncio.sleep(1)
    finally:
        await client.close()
