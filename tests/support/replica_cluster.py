"""Three replicas behind a balancer on a cluster of three nats-servers, with links to cut."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.js.api import ConsumerInfo, StreamInfo

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from almenara_demo.balancer import Balancer
from almenara_nats.bus_settings import JetStreamBusSettings
from support.application import Almenara
from support.faulty_link import FaultyLink, Mode
from support.nats_cluster import nats_cluster
from support.replicas import BUS_SECRET, create_stream, wait_for_batches
from support.servers import NatsServer, free_port, wait_until
from support.wrong_clock import ClockFile

NAMES = ("a", "b", "c")
PATIENCE = 180.0
STREAM = "ALMENARA_BUS"
INTAKE: dict[str, Any] = {"load": {"kind": "cloudevents", "rate_limit": 1e6, "burst": 1_000_000}}


class Replica:
    """A replica, its links to the servers and to the balancer, and its clock."""

    def __init__(
        self, name: str, folder: Path, to_servers: list[FaultyLink], **config: Any
    ) -> None:
        self.name, self.to_servers = name, to_servers
        urls = [f"nats://127.0.0.1:{link.port}" for link in to_servers]
        bus = {
            "kind": "jetstream", "replica": name, "secret": BUS_SECRET, "snapshot_interval": 5,
            "settings": {"replicas": 3},
        }  # fmt: skip
        plugins = {"nats": {"servers": urls}, **config.pop("plugins", {})}
        storage = {"dir": str(folder / "var"), **config.pop("storage", {})}
        config = {
            "bus": bus, "plugins": plugins, "intake": INTAKE, "server": {"drain_period": 0.2},
            "storage": storage, **config,
        }  # fmt: skip
        self.application = Almenara(folder, config=config)
        self.clock = ClockFile(folder)
        self.application.serve = self.clock.serve(self.application.program)
        self.storage = folder / "var"
        self.from_balancer = FaultyLink(self.application.port)

    def cut_from_servers(self, mode: Mode) -> None:
        for link in self.to_servers:
            link.set(mode)

    def lose_disk(self) -> None:
        shutil.rmtree(self.storage, ignore_errors=True)


class ReplicaCluster:
    """The servers and the replicas, all of them running."""

    def __init__(self, servers: list[NatsServer], replicas: list[Replica], port: int) -> None:
        self.servers, self.replicas, self.port = servers, replicas, port
        self.token = ""
        self.streams = [STREAM, *JetStreamBusSettings(stream=STREAM).bucket_streams]
        """The streams with three copies."""
        self.consumers: list[tuple[str, str]] = []
        """The consumers with three copies: stream and name."""

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    async def find_leader(self) -> NatsServer:
        """The server that leads the stream of the bus."""
        return self.servers[int((await self._wait_for_copies(STREAM, is_complete=False))[1:])]

    async def wait_until_whole(self, sources: Collection[str] = ()) -> None:
        """Wait until all replicas are ready, every server has everything of each stream, and some
        sources publish: three copies survive the loss of one server at a time."""
        for replica in self.replicas:
            await asyncio.to_thread(
                wait_until, lambda replica=replica: replica.application.status("/readyz") == 200,
                f"{replica.name} to be ready", PATIENCE,
            )  # fmt: skip
        for stream in self.streams:
            await self._wait_for_copies(stream, is_complete=True)
        for stream, consumer in self.consumers:
            await self._wait_for_copies(stream, consumer, is_complete=True)
        if sources:
            async with asyncio.timeout(PATIENCE):
                await wait_for_batches(sources, *self.servers)

    async def _wait_for_copies(self, stream: str, consumer: str = "", *, is_complete: bool) -> str:
        """Return the name of the server that leads a stream or a consumer."""
        client = await nats.connect(self.urls, reconnect_time_wait=0.2, error_cb=ignore)
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        jetstream = client.jetstream(timeout=2)
                        info: StreamInfo | ConsumerInfo = (
                            await jetstream.consumer_info(stream, consumer)
                            if consumer
                            else await jetstream.stream_info(stream)
                        )
                    except Exception:
                        await asyncio.sleep(0.2)
                        continue
                    cluster = info.cluster
                    copies = (cluster.replicas or []) if cluster is not None else []
                    are_current = sum(copy.current or False for copy in copies) == 2
                    if cluster is not None and cluster.leader and (are_current or not is_complete):
                        return str(cluster.leader)
                    await asyncio.sleep(0.2)
        finally:
            await client.close()

    async def holder(self) -> Replica:
        """The replica that runs the NATS source."""
        for replica in itertools.cycle(self.replicas):
            try:
                sources = await asyncio.to_thread(replica.application.get, "/api/sources")
            except OSError:
                sources = []
            for source in sources:
                for other in self.replicas:
                    if source["name"] == "nats" and source.get("replica") == other.name:
                        return other
            await asyncio.sleep(0.1)
        raise AssertionError


async def ignore(error: Exception) -> None:
    """Lost connections are the subject of these tests."""


@asynccontextmanager
async def replica_cluster(folder: Path, **config: Any) -> AsyncIterator[ReplicaCluster]:
    """Run the cluster; `config` is that of every replica."""
    with ExitStack() as stack:
        servers = stack.enter_context(nats_cluster(folder))
        replicas = [
            Replica(
                name, folder / name,
                [stack.enter_context(FaultyLink(server.port)) for server in servers], **config,
            )
            for name in NAMES
        ]  # fmt: skip
        cluster = ReplicaCluster(servers, replicas, free_port())
        await create_stream(servers, PATIENCE)
        token, cluster.token = create_token(
            "load", Role.INTAKE, [], 86_400, created_by="test", intake="load"
        )
        for replica in replicas:
            replica.storage.mkdir(parents=True, mode=0o700)
            AccessStore(replica.storage).add_token(token)
            stack.enter_context(replica.from_balancer)
            stack.callback(replica.application.stop)
            replica.application.launch()
        balancer = Balancer(cluster.port, [replica.from_balancer.port for replica in replicas])
        balancing = asyncio.create_task(balancer.run())
        try:
            await cluster.wait_until_whole()
            yield cluster
        finally:
            balancing.cancel()
            await asyncio.wait([balancing])
