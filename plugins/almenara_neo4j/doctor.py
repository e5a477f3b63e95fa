"""What `almenara doctor` reports about each deployment."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara.sdk.servers import report_silent
from almenara_neo4j.deployment import Deployment
from almenara_neo4j.errors import ServerError
from almenara_neo4j.graph import collect_graph
from almenara_neo4j.graph_reader import GraphReader
from almenara_neo4j.settings import DeploymentSettings, GraphSettings, Neo4jSettings


async def diagnose(settings: Neo4jSettings) -> Sequence[Finding]:
    """Observe each deployment once, and read each graph."""
    return await asyncio.gather(
        *(check_deployment(deployment) for deployment in settings.deployments),
        *(
            check_graph(deployment, graph)
            for deployment in settings.deployments
            for graph in deployment.graphs
        ),
    )


async def check_deployment(settings: DeploymentSettings) -> Finding:
    """Whether all servers of a deployment answer, and the user has the rights that are needed."""
    check = f"Neo4j {settings.name}"
    deployment = Deployment(settings)
    try:
        observations = await deployment.observe_all()
    finally:
        await deployment.close()
    silent = [each.resource for each in observations if not each.is_reachable]
    problems = sorted({problem for each in observations for problem in each.problems})
    remedy = (
        "Check urls, user, password and tls, and that server.bolt.listen_address of the server"
        " accepts connections from here."
    )
    if (finding := report_silent(check, silent, len(observations), remedy)) is not None:
        return finding
    if problems:
        return Finding(
            check=check,
            verdict="warning",
            message="; ".join(problems),
            remedy="Grant the rights in the README of the plugin; without dbms.queryJmx set"
            " jmx: false.",
        )
    first = observations[0].resource.state
    return Finding(
        check=check,
        verdict="ok",
        message=f"servers that answer: {len(observations)} (Neo4j {first.get('version', '?')}"
        f" {first.get('edition', '')}); databases: {len(observations[0].databases or ())}",
    )


async def check_graph(deployment: DeploymentSettings, settings: GraphSettings) -> Finding:
    """Whether a graph can be read, and whether it has any node."""
    check = f"Neo4j graph {settings.name}"
    reader = GraphReader(deployment, settings)
    try:
        rows, _ = await reader.read()
    except ServerError as error:
        return Finding(
            check=check,
            verdict="failed",
            message=str(error),
            remedy="Check database and query of the graph, and that the user may read its nodes:"
            " GRANT MATCH {*} ON GRAPH … to a role of the user.",
        )
    finally:
        await reader.close()
    graph = collect_graph(rows or (), settings)
    if not graph.nodes:
        return Finding(
            check=check,
            verdict="warning",
            message="it has no nodes",
            remedy="Check labels or query, and that the user may read these nodes: Neo4j leaves out"
            " what the user may not read.",
        )
    message = f"nodes: {len(graph.nodes)}, relationships: {len(graph.relationships)}"
    if graph.is_partial:
        message += "; there are more than node_limit, relationship_limit or row_limit"
    return Finding(check=check, verdict="ok", message=message)
