"""The source of one configured cluster."""

import asyncio

from almenara.hookspecs import Context, Publish, SourceReport
from almenara_ray.client import DashboardClient
from almenara_ray.cluster_state import ClusterState
from almenara_ray.cluster_state_store import load_state
from almenara_ray.poller import ClusterPoller
from almenara_ray.settings import ClusterSettings, RaySettings


class RaySource:
    """Follows one cluster. Each cluster has a source of its own, so that none delays another."""

    def __init__(self, cluster: ClusterSettings, settings: RaySettings, context: Context) -> None:
        self.name = f"ray/{cluster.name}"
        self.cluster, self.settings, self.context = cluster, settings, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Follow the cluster until cancelled."""
        name, settings = self.cluster.name, self.settings
        state = ClusterState(
            name, await load_state(self.context, name),
            pending_after=settings.pending_after, finished_limit=settings.finished_limit,
        )  # fmt: skip
        await state.restore(self.context, self.name)
        state.is_simulated = self.cluster.simulated
        if self.cluster.show_address:
            state.address = self.cluster.url
        async with DashboardClient(self.cluster, settings) as client:
            poller = ClusterPoller(state, client, settings, publish, report, self.context)
            async with asyncio.TaskGroup() as group:
                group.create_task(poller.poll_jobs(), name=f"jobs of {name}")
                group.create_task(poller.poll_cluster(), name=f"cluster {name}")
