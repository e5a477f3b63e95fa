"""The source of one configured deployment."""

from almenara.hookspecs import Context, Publish, SourceReport
from almenara_neo4j.deployment import Deployment
from almenara_neo4j.settings import DeploymentSettings


class Neo4jSource:
    """Observes one deployment. Each has a source of its own, so that none delays another."""

    def __init__(self, deployment: DeploymentSettings, context: Context) -> None:
        self.name = f"neo4j/{deployment.name}"
        self.deployment, self.context = deployment, context

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Observe until cancelled."""
        await Deployment(self.deployment).run(self.name, self.context, publish, report)
