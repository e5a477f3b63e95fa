"""The source: every configured server on its own, and each address behind one name."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, describe_error, every, monotonic
from almenara.sdk.http import Resolver
from almenara.signals import Resource, Sample
from almenara_vllm.client import ServerClient, ServerError
from almenara_vllm.kinds import SOURCE
from almenara_vllm.metrics import make_filter
from almenara_vllm.server import Server, find_transitions
from almenara_vllm.settings import VllmServerSettings, VllmSettings

MAX_ADDRESSES: Final = 200
DETAILS_INTERVAL: Final = 30.0
"""Seconds between two readings of models and version, which rarely change."""

Observed = tuple[list[Resource], list[Sample]]


class VllmSource:
    """Observes every server at its own interval; a slow one delays no other."""

    name = SOURCE

    def __init__(self, settings: VllmSettings, context: Context) -> None:
        self.settings, self.context = settings, context
        self._resolver = Resolver()
        self._snapshots = Snapshots(find_transitions)
        self._latest: dict[str, list[Resource]] = {}
        """The resources of each configured server."""

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled."""
        health = HealthAggregator(report)
        await self._snapshots.restore(self.context, self.name)
        async with asyncio.TaskGroup() as group:
            for settings in self.settings.servers:
                observer = ServerGroup(settings, self.settings, self._resolver)
                group.create_task(
                    self._observe(observer, publish, health), name=f"vLLM {settings.name}"
                )

    async def _observe(
        self, observer: "ServerGroup", publish: Publish, health: HealthAggregator
    ) -> None:
        name = observer.settings.name
        try:
            async for _ in every(observer.settings.every):
                resources, samples = await observer.observe()
                self._latest[name] = resources
                if len(self._latest) < len(self.settings.servers):
                    # What an earlier run published is compared once everything is known.
                    await publish(samples)
                    continue
                known = [resource for each in self._latest.values() for resource in each]
                await publish([*self._snapshots.difference(known), *samples])
                health.note(name, observer.problem)
        finally:
            await observer.close()


class ServerGroup:
    """The servers behind one configured address."""

    def __init__(
        self, settings: VllmServerSettings, plugin: VllmSettings, resolver: Resolver
    ) -> None:
        self.settings, self._plugin, self._resolver = settings, plugin, resolver
        self._filter = make_filter()
        self._servers: dict[str, tuple[Server, ServerClient]] = {}
        self._details_at: dict[str, float] = {}
        self.problem = ""
        """Why servers cannot be observed; empty while all answer."""

    async def observe(self) -> Observed:
        """Return the resources and samples of all servers."""
        try:
            urls = await self._list_urls()
        except OSError as error:
            if not self._servers:
                server = Server(self.settings.name, self._plugin, self._filter)
                self.problem = f"{self.settings.name}: {describe_error(error)}"
                return server.fail(describe_error(error)), []
            urls = dict.fromkeys(self._servers, "")
        await self._update_servers(urls)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._observe_server(server, client))
                for server, client in self._servers.values()
            ]
        observed = [task.result() for task in tasks]
        problems = [problem for *_, problem in observed if problem]
        self.problem = problems[0] if problems else ""
        if len(problems) > 1:
            self.problem += f"; and {len(problems) - 1} more servers"
        return (
            [resource for resources, _, _ in observed for resource in resources],
            [sample for _, samples, _ in observed for sample in samples],
        )

    async def _list_urls(self) -> dict[str, str]:
        """The address of each server by its name. Raises `OSError`."""
        settings = self.settings
        if not settings.resolve:
            return {settings.name: settings.url}
        parts = urlsplit(settings.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses = await self._resolver.resolve(parts.hostname or "", port)
        urls = {}
        for address in sorted(set(addresses))[:MAX_ADDRESSES]:
            host = f"[{address}]" if ":" in address else address
            urls[f"{settings.name}/{address}"] = f"{parts.scheme}://{host}:{port}{parts.path}"
        return urls

    async def _update_servers(self, urls: dict[str, str]) -> None:
        for name in self._servers.keys() - urls.keys():
            _, client = self._servers.pop(name)
            await client.close()
        for name, url in urls.items():
            if name not in self._servers:
                client = ServerClient(self.settings, url, self._plugin.body_limit, self._resolver)
                self._servers[name] = Server(name, self._plugin, self._filter), client

    async def _observe_server(
        self, server: Server, client: ServerClient
    ) -> tuple[list[Resource], list[Sample], str]:
        at = monotonic()
        try:
            body = await client.read_metrics()
            await self._read_details(server, client)
            # A large page takes long enough to parse to delay other servers.
            resources, samples = await asyncio.to_thread(server.accept, body, at)
        except ServerError as error:
            self._details_at.pop(server.name, None)
            return server.fail(str(error)), [], f"{server.name}: {error}"
        return resources, samples, ""

    async def _read_details(self, server: Server, client: ServerClient) -> None:
        """Read health, and now and then models and version. Raises `ServerError`."""
        if self.settings.metrics_only:
            return
        server.unhealthy = await client.read_health()
        if monotonic() - self._details_at.get(server.name, -DETAILS_INTERVAL) < DETAILS_INTERVAL:
            return
        self._details_at[server.name] = monotonic()
        for read in (self._read_models, self._read_version):
            try:
                await read(server, client)
            except ServerError:
                # The page of metrics tells what matters; a gateway may pass on nothing else.
                continue

    @staticmethod
    async def _read_models(server: Server, client: ServerClient) -> None:
        server.models = await client.read_models()

    @staticmethod
    async def _read_version(server: Server, client: ServerClient) -> None:
        server.version = await client.read_version()

    async def close(self) -> None:
        """Close all connections."""
        for _, client in self._servers.values():
            await client.close()
