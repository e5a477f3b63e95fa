"""All servers of one deployment, observed together, and the databases that they host."""

import asyncio
from collections.abc import Sequence
from typing import Final

from almenara.hookspecs import Context, Publish, ResourceKey, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, every, monotonic, now
from almenara.signals import Event, Resource, Sample, Signal
from almenara_neo4j.client import Row
from almenara_neo4j.errors import QueryError, ServerError
from almenara_neo4j.kinds import DATABASE, ONLINE, QUERY
from almenara_neo4j.mapping import (
    find_transitions,
    is_on_server,
    make_checkpoint_event,
    make_sample,
    map_database,
    measure_database,
    name_databases,
)
from almenara_neo4j.metrics import read_number
from almenara_neo4j.server import (
    SHOW_DATABASES,
    SHOW_TRANSACTIONS,
    Observation,
    ServerObserver,
)
from almenara_neo4j.settings import DeploymentSettings

MAX_COUNTED: Final = 50
"""Databases whose nodes and relationships are counted."""
COUNTS: Final = {
    "nodes": "MATCH (n) RETURN count(n) AS count",
    "relationships": "MATCH ()-[r]->() RETURN count(r) AS count",
}
"""Queries that the planner answers from the count store, whatever the size of the database."""
UNCOUNTED: Final = frozenset(("system", "composite"))
RIGHTS: Final = "rights"
"""The part of the health that is about refused queries."""


class Deployment:
    """Observes one deployment at its interval."""

    def __init__(self, settings: DeploymentSettings) -> None:
        self.settings = settings
        self.observers = [ServerObserver(address, settings) for address in settings.addresses]
        self._snapshots = Snapshots(find_transitions)
        self._databases_at: int | None = None
        """When the databases were last read, in microseconds."""
        self._commits: dict[str, tuple[float, float]] = {}
        self._checkpoints: dict[tuple[str, str], float] = {}
        """The checkpoints that each server has counted of each database."""

    async def run(
        self, source: str, context: Context, publish: Publish, report: SourceReport
    ) -> None:
        """Observe until cancelled."""
        health = HealthAggregator(report)
        await self._snapshots.restore(context, source)
        try:
            async for _ in every(self.settings.every):
                observations = await self.observe_all()
                signals = await self._make_signals(observations)
                await publish(signals)
                self._report_health(observations, health)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections to all servers."""
        for observer in self.observers:
            await observer.client.close()

    async def observe_all(self) -> list[Observation]:
        """Observe every server."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(observer.observe()) for observer in self.observers]
        return [task.result() for task in tasks]

    async def _make_signals(self, observations: Sequence[Observation]) -> list[Signal]:
        resources = [observation.resource for observation in observations]
        unread: list[ResourceKey] = []
        unknown: list[Signal] = []
        others: list[Signal] = []

        def skip(keys: Sequence[ResourceKey], reason: str, since: int | None) -> None:
            unread.extend(keys)
            unknown.extend(self._snapshots.mark_unknown(reason, since, keys))

        for observer, observation in zip(self.observers, observations, strict=True):
            if observation.databases is not None:
                databases, samples, events = await self._observe_databases(
                    observer, observation, observation.databases
                )
                self._databases_at = now()
                resources += databases
                others += [*samples, *events]
                break
        else:
            # A server that answers knows best why.
            observation = max(observations, key=lambda each: each.is_reachable)
            skip(
                self._snapshots.list_keys(DATABASE), observation.explain(SHOW_DATABASES),
                self._databases_at,
            )  # fmt: skip
        for observer, observation in zip(self.observers, observations, strict=True):
            others += observation.samples
            if observation.queries is not None:
                resources += observation.queries
                continue
            keys = [
                key for key in self._snapshots.list_keys(QUERY) if is_on_server(key, observer.name)
            ]
            skip(keys, observation.explain(SHOW_TRANSACTIONS), observer.transactions_at)
        return [*unknown, *self._snapshots.difference(resources, unread), *others]

    async def _observe_databases(
        self, observer: ServerObserver, observation: Observation, rows: Sequence[Row]
    ) -> tuple[list[Resource], list[Sample], list[Event]]:
        """The databases that a server names, with their samples. Every member of a cluster names
        the databases of all."""
        deployment, at = self.settings.name, monotonic()
        resources: list[Resource] = []
        samples: list[Sample] = []
        events: list[Event] = []
        commits: dict[str, tuple[float, float]] = {}
        for name, row in name_databases(rows):
            resource = map_database(deployment, name, row)
            resources.append(resource)
            measured, last = measure_database(deployment, name, row, self._commits.get(name), at)
            samples += measured
            if last is not None:
                commits[name] = last
        self._commits = commits
        first = {str(each.state["database"]): each for each in reversed(resources)}
        for database, resource in first.items():
            metrics = observation.metrics.get(database, {})
            samples += [
                make_sample(DATABASE, deployment, resource.name, metric, value, unit)
                for metric, (value, unit) in metrics.items()
            ]
            events += self._find_checkpoint(observer.name, resource, metrics)
        if self.settings.count_entities:
            samples += await self._count(observer, observation, first)
        return resources, samples, events

    def _find_checkpoint(
        self, server: str, database: Resource, metrics: dict[str, tuple[float, str]]
    ) -> list[Event]:
        if "checkpoints" not in metrics:
            return []
        key = server, database.name
        number, before = metrics["checkpoints"][0], self._checkpoints.get(key)
        self._checkpoints[key] = number
        if before is None or number <= before:
            return []
        duration = metrics.get("checkpoint_duration", (None, ""))[0]
        return [make_checkpoint_event(database, int(number), duration)]

    async def _count(
        self, observer: ServerObserver, observation: Observation, databases: dict[str, Resource]
    ) -> list[Sample]:
        """The number of nodes and relationships of each database that is online."""
        samples: list[Sample] = []
        countable = [
            (name, resource)
            for name, resource in databases.items()
            if resource.status == ONLINE
            and not UNCOUNTED.intersection((name, resource.state.get("type")))
        ]
        for name, resource in countable[:MAX_COUNTED]:
            for metric, query in COUNTS.items():
                try:
                    rows = await observer.client.read(f"count({metric})", query, database=name)
                except QueryError as error:
                    observation.problems[f"{name}: {metric}"] = f"{name}: {error}"
                    continue
                except ServerError:
                    # The next observation reports a server that has just stopped to answer.
                    return samples
                count = read_number(rows[0].get("count")) if rows else None
                if count is not None:
                    samples.append(
                        make_sample(DATABASE, self.settings.name, resource.name, metric, count)
                    )
        return samples

    def _report_health(self, observations: Sequence[Observation], health: HealthAggregator) -> None:
        for observation in observations:
            name = observation.resource.name
            reason = str(observation.resource.state.get("reason", ""))
            health.note(name, "" if observation.is_reachable else f"{name}: {reason}")
        problems = {problem for each in observations for problem in each.problems.values()}
        health.note(RIGHTS, "; ".join(sorted(problems)))
