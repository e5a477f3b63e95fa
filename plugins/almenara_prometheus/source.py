"""The source: every target is scraped on its own."""

import asyncio
from collections import defaultdict

import httpx
import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import every, monotonic
from almenara.sdk.exposition import read_page
from almenara.sdk.http import Resolver
from almenara.signals import Resource, Signal
from almenara_prometheus.client import ScrapeError, open_client, scrape
from almenara_prometheus.settings import PrometheusSettings, TargetSettings
from almenara_prometheus.target import KIND, ResourceName, Target, TargetState


class PrometheusSource:
    """Scrapes every target at its own interval; a slow one delays no other."""

    name = "prometheus"

    def __init__(self, settings: PrometheusSettings, context: Context) -> None:
        self.settings, self.context = settings, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Scrape until cancelled."""
        report.recovered()
        configured = {target.name for target in self.settings.targets}
        published: dict[str, set[ResourceName]] = defaultdict(set)
        removed: list[Signal] = []
        for kind, namespace, name in await self.context.known_resources(self.name):
            if (name if kind == KIND else namespace) not in configured:
                removed.append(Resource(kind=kind, namespace=namespace, name=name, deleted=True))
            elif kind != KIND:
                published[namespace].add((kind, name))
        if removed:
            await publish(removed)
        resolver = Resolver()
        async with asyncio.TaskGroup() as group:
            for settings in self.settings.targets:
                state = await load_state(settings, self.context)
                target = Target(settings, state, published[settings.name])
                group.create_task(scrape_regularly(target, publish, self.context, resolver))


async def scrape_regularly(
    target: Target, publish: Publish, context: Context, resolver: Resolver
) -> None:
    """Scrape one target until cancelled."""
    settings = target.settings
    client: httpx.AsyncClient | None = None
    try:
        async for _ in every(settings.every):
            started, status = monotonic(), target.state.status
            try:
                client = client or open_client(settings, resolver)
                body = await scrape(client, settings)
            except ScrapeError as error:
                if client is not None:
                    # The next client reads the file of `ca` again, which may have changed.
                    await client.aclose()
                    client = None
                await publish(target.fail(str(error)))
            else:
                duration = monotonic() - started
                # A large page takes long enough to parse to delay other targets.
                page = await asyncio.to_thread(read_page, body, target.mapper.filter)
                await publish(target.accept(page, started, duration))
            if target.state.status != status:
                await context.save(settings.name, msgspec.json.encode(target.state))
    finally:
        if client is not None:
            await client.aclose()


async def load_state(settings: TargetSettings, context: Context) -> TargetState:
    """Return what an earlier run knew of a target."""
    stored = await context.load(settings.name)
    try:
        return msgspec.json.decode(stored, type=TargetState) if stored else TargetState()
    except msgspec.MsgspecError:
        return TargetState()
