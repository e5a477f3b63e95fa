"""One server of a deployment: what it reports at each observation."""

from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.sdk import mark_unknown, monotonic, now
from almenara.sdk.servers import Address
from almenara.signals import Resource, Sample
from almenara_neo4j.client import Row, make_client
from almenara_neo4j.errors import QueryError, ServerError
from almenara_neo4j.kinds import SERVER, UNREACHABLE, severity_of
from almenara_neo4j.mapping import (
    make_sample,
    map_queries,
    map_server,
    measure_transactions,
    read_time,
)
from almenara_neo4j.metrics import HEAP, METRICS, STARTED, read_metrics, read_number
from almenara_neo4j.settings import DeploymentSettings

COMPONENTS: Final = "CALL dbms.components() YIELD name, versions, edition"
DATABASES: Final = "SHOW DATABASES YIELD *"
TRANSACTIONS: Final = (
    "SHOW TRANSACTIONS YIELD database, transactionId, currentQuery, startTime, status, elapsedTime,"
    " activeLockCount, username, clientAddress, metaData"
)


class Observation(msgspec.Struct):
    """What one server has reported."""

    resource: Resource
    is_reachable: bool = True
    databases: Sequence[Row] = ()
    """The rows of SHOW DATABASES."""
    queries: Sequence[Resource] = ()
    samples: Sequence[Sample] = ()
    metrics: dict[str, dict[str, tuple[float, str]]] = {}
    """Value and unit of each metric of each database, where the edition has them."""
    problems: Sequence[str] = ()
    """What cannot be read, and why."""


class ServerObserver:
    """Observes one server over a connection of its own, so that none delays another."""

    def __init__(self, address: Address, settings: DeploymentSettings) -> None:
        self.name, self.settings = str(address), settings
        self.client = make_client(address, settings)
        self._resource: Resource | None = None
        self._queries: Sequence[Resource] = ()
        self._last_answer = 0
        self._problems: list[str] = []

    async def observe(self) -> Observation:
        """Return what the server reports now. Raises nothing for a server that does not answer."""
        self._problems = []
        started_at = monotonic()
        try:
            components = await self.client.read("dbms.components", COMPONENTS)
            latency = monotonic() - started_at
            return await self._describe(components, latency)
        except ServerError as error:
            return self._describe_failure(str(error))

    async def _describe(self, components: Sequence[Row], latency: float) -> Observation:
        deployment = self.settings.name
        databases = await self._try("SHOW DATABASES", DATABASES)
        transactions = await self._try("SHOW TRANSACTIONS", TRANSACTIONS)
        started = await self._read_start(databases)
        resource = map_server(deployment, self.name, components, started)
        if self.settings.simulated is not None:
            resource.state["data"] = "simulated"
        values = [("latency", latency, "s")]
        if "SHOW TRANSACTIONS" not in " ".join(self._problems):
            values += measure_transactions(transactions)
        metrics = await self._read_metrics(values, databases, resource)
        queries, samples = map_queries(
            deployment, self.name, transactions, after=self.settings.long_query_after,
            shows_text=self.settings.show_queries,
        )  # fmt: skip
        self._resource, self._queries, self._last_answer = resource, queries, now()
        return Observation(
            resource=resource,
            databases=databases,
            queries=queries,
            samples=[
                *(make_sample(SERVER, deployment, self.name, *value) for value in values),
                *samples,
            ],
            metrics=metrics,
            problems=self._problems,
        )

    async def _try(self, name: str, query: str) -> list[Row]:
        """The rows of a query that the server may refuse. Raises `ServerError` for others."""
        try:
            return await self.client.read(name, query)
        except QueryError as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
            return []

    async def _read_start(self, databases: Sequence[Row]) -> int:
        """When the process was started or, if that may not be read, its database `system`."""
        if self.settings.jmx:
            for row in await self._try("dbms.queryJmx", STARTED):
                if (started := read_number(row.get("started"))) is not None:
                    return int(started) * 1000
        systems = [row for row in databases if row.get("name") == "system"]
        # In a cluster these are several servers, and an address does not tell which is which.
        return (read_time(systems[0].get("lastStartTime")) or 0) if len(systems) == 1 else 0

    async def _read_metrics(
        self, values: list[tuple[str, float, str]], databases: Sequence[Row], server: Resource
    ) -> dict[str, dict[str, tuple[float, str]]]:
        """Add the metrics of the server to `values`; return those of its databases."""
        metrics: dict[str, dict[str, tuple[float, str]]] = {}
        if not self.settings.jmx:
            return metrics
        for row in await self._try("dbms.queryJmx", HEAP):
            used, limit = read_number(row.get("used")), read_number(row.get("max"))
            if used is not None:
                values.append(("heap", used, "By"))
                if limit and limit > 0:
                    values.append(("heap_share", used / limit, ""))
        if server.state.get("edition") != "enterprise":
            return metrics
        names = [str(row.get("name", "")) for row in databases]
        rows = await self._try("dbms.queryJmx", METRICS)
        for database, metric, value, unit in read_metrics(rows, names):
            if database:
                metrics.setdefault(database, {})[metric] = value, unit
            else:
                values.append((metric, value, unit))
        return metrics

    def _describe_failure(self, reason: str) -> Observation:
        """The last known state, as that of a server that does not answer."""
        self._last_answer = self._last_answer or now()
        before = self._resource or Resource(
            kind=SERVER, namespace=self.settings.name, name=self.name
        )
        self._queries = [mark_unknown(each, reason, self._last_answer) for each in self._queries]
        return Observation(
            resource=mark_unknown(
                before, reason, self._last_answer, status=UNREACHABLE,
                severity=severity_of(UNREACHABLE),
            ),
            is_reachable=False,
            queries=self._queries,
        )  # fmt: skip
