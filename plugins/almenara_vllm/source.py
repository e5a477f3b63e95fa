"""The source: every configured server on its own, and each address behind one name."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

from almenara.hookspecs import Context, Publish, ResourceKey, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, describe_error, every, monotonic
from almenara.sdk.http import Resolver
from almenara.signals import Resource, Sample, Signal
from almenara_vllm.client import ServerClient, ServerError
from almenara_vllm.kinds import KINDS, SERVER, SOURCE
from almenara_vllm.metrics import make_filter
from almenara_vllm.server import OtherPageError, Server, find_transitions
from almenara_vllm.settings import Entry, VllmServerSettings, VllmSettings
from almenara_vllm.targets import make_targets

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
        self._unread: dict[str, dict[str, str]] = {}
        """What is not read yet of each, as in `ServerGroup.unread`."""

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled."""
        health = HealthAggregator(report)
        self._latest = {}
        await self._snapshots.restore(self.context, self.name)
        async with asyncio.TaskGroup() as group:
            for settings in self.settings.entries:
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
                self._latest[name], self._unread[name] = resources, dict(observer.unread)
                if len(self._latest) < len(self.settings.entries):
                    # What an earlier run published is compared once everything is known.
                    await publish(samples)
                    continue
                known = [resource for each in self._latest.values() for resource in each]
                await publish([*self._compare(known), *samples])
                health.note(name, observer.problem)
        finally:
            await observer.close()

    def _compare(self, known: list[Resource]) -> list[Signal]:
        """What changed. Of what an earlier run has published, only what can be read is missing."""
        owners = {owner: why for each in self._unread.values() for owner, why in each.items()}
        current = {resource.key for resource in known}
        signals: list[Signal] = []
        unread: list[ResourceKey] = []
        for key in [key for kind in KINDS for key in self._snapshots.list_keys(kind)]:
            owner = key[2] if key[0] == SERVER else key[1]
            reason = owners.get(owner) or owners.get(owner.partition("/")[0] + "/")
            if reason and key not in current:
                unread.append(key)
                signals += self._snapshots.mark_unknown(reason, keys=[key])
        return [*signals, *self._snapshots.difference(known, unread)]


class ServerGroup:
    """The servers of one entry of the settings."""

    def __init__(self, settings: Entry, plugin: VllmSettings, resolver: Resolver) -> None:
        self.settings, self._plugin, self._resolver = settings, plugin, resolver
        self._targets = make_targets(settings, plugin, resolver)
        self._filter = make_filter()
        self._servers: dict[str, tuple[Server, ServerClient]] = {}
        self._details_at: dict[str, float] = {}
        self.problem = ""
        """Why servers cannot be observed; empty while all answer."""
        self.unread: dict[str, str] = {}
        """Why each server that has not answered in this run does not; the name of the entry with
        `/` for all of its servers, while they cannot be listed."""

    async def observe(self) -> Observed:
        """Return the resources and samples of all servers."""
        name, unlisted = self.settings.name, ""
        self.unread = {}
        try:
            urls = await self._targets.list_urls()
        except (OSError, ServerError) as error:
            unlisted = f"{name}: {describe_error(error)}"
            if not self._servers:
                self.problem = unlisted
                self.unread = {name: describe_error(error), f"{name}/": describe_error(error)}
                return Server(name, self._plugin, self._filter).fail(describe_error(error)), []
            urls = {known: client.url for known, (_, client) in self._servers.items()}
        await self._update_servers(urls)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._observe_server(server, client))
                for server, client in self._servers.values()
            ]
        observed = [task.result() for task in tasks]
        problems = [unlisted] if unlisted else []
        problems += [problem for *_, problem in observed if problem]
        self.problem = problems[0] if problems else ""
        if len(problems) > 1:
            self.problem += f"; and {len(problems) - 1} more servers"
        return (
            [resource for resources, _, _ in observed for resource in resources],
            [sample for _, samples, _ in observed for sample in samples],
        )

    async def _update_servers(self, urls: dict[str, str]) -> None:
        for name in self._servers.keys() - urls.keys():
            _, client = self._servers.pop(name)
            await client.close()
        for name, url in urls.items():
            known = self._servers.get(name)
            if known is not None and known[1].url == url:
                continue
            if known is not None:
                await known[1].close()
            client = ServerClient(
                self.settings, url, self._plugin.body_limit, self._resolver,
                metrics_only=self.settings.metrics_only, host=self._host,
            )  # fmt: skip
            server = known[0] if known is not None else Server(name, self._plugin, self._filter)
            self._servers[name] = server, client

    @property
    def _may_serve_nothing(self) -> bool:
        """Whether a valid page without a metric of vLLM is not a problem."""
        is_discovered = not isinstance(self.settings, VllmServerSettings)
        return is_discovered and self.settings.metrics_only

    @property
    def _host(self) -> str:
        """The host to name in requests: the address of one of several servers is no name that they
        know."""
        settings = self.settings
        return urlsplit(settings.url).netloc if isinstance(settings, VllmServerSettings) else ""

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
            if self._may_serve_nothing and isinstance(error, OtherPageError):
                # A node of Ray without a replica, or another pod with the same labels.
                return [], [], ""
            self._details_at.pop(server.name, None)
            if not server.has_answered:
                self.unread[server.name] = str(error)
            return server.fail(str(error)), [], f"{server.name}: {error}"
        return resources, samples, ""

    async def _read_details(self, server: Server, client: ServerClient) -> None:
        """Read health, and now and then models and version. Raises `ServerError`."""
        if self.settings.metrics_only:
            return
        server.unhealthy = await client.read_health()
        try:
            server.set_load(await client.read_load())
        except ServerError:
            server.set_load(None)
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
        await self._targets.close()
