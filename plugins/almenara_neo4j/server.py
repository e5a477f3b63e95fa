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
SHOW_DATABASES: Final = "SHOW DATABASES"
SHOW_TRANSACTIONS: Final = "SHOW TRANSACTIONS"
QUERY_JMX: Final = "dbms.queryJmx"
TRANSACTIONS: Final = (
    "SHOW TRANSACTIONS YIELD database, transactionId, currentQuery, startTime, status, elapsedTime,"
    " activeLockCount, username, clientAddress, metaData"
)


class Observation(msgspec.Struct):
    """What one server has reported."""

    resource: Resource
    is_reachable: bool = True
    databases: Sequence[Row] | None = None
    """The rows of SHOW DATABASES; None where they are unknown."""
    queries: Sequence[Resource] | None = None
    """The long queries; None where they are unknown."""
    samples: Sequence[Sample] = ()
    metrics: dict[str, dict[str, tuple[float, str]]] = {}
    """Value and unit of each metric of each database, where the edition has them."""
    problems: dict[str, str] = {}
    """Why each query failed, by its name."""

    def explain(self, query: str) -> str:
        """Why the answer to a query is unknown."""
        return self.problems.get(query) or str(self.resource.state.get("reason", ""))


class ServerObserver:
    """Observes one server over a connection of its own, so that none delays another."""

    def __init__(self, address: Address, settings: DeploymentSettings) -> None:
        self.name, self.settings = str(address), settings
        self.client = make_client(address, settings)
        self._resource: Resource | None = None
        self._last_answer = self._started = 0
        self.transactions_at: int | None = None
        """When its transactions were last read, in microseconds."""
        self._has_jmx = False
        """Whether the start of the process was read, not only that of its database."""
        self._databases: Sequence[str] = ()
        """The last known names of its databases."""
        self._problems: dict[str, str] = {}

    async def observe(self) -> Observation:
        """Return what the server reports now. Raises nothing for a server that does not answer."""
        self._problems = {}
        started_at = monotonic()
        try:
            components = await self.client.read("dbms.components", COMPONENTS)
            latency = monotonic() - started_at
            return await self._describe(components, latency)
        except ServerError as error:
            return self._describe_failure(str(error))

    async def _describe(self, components: Sequence[Row], latency: float) -> Observation:
        deployment = self.settings.name
        databases = await self._try(SHOW_DATABASES, DATABASES)
        transactions = await self._try(SHOW_TRANSACTIONS, TRANSACTIONS)
        if databases is not None:
            self._databases = [str(row.get("name", "")) for row in databases]
        self._started = await self._read_start(databases)
        resource = map_server(deployment, self.name, components, self._started)
        if self.settings.simulated is not None:
            resource.state["data"] = "simulated"
        values = [("latency", latency, "s")]
        queries: Sequence[Resource] | None = None
        samples: Sequence[Sample] = ()
        if transactions is not None:
            self.transactions_at = now()
            values += measure_transactions(transactions)
            queries, samples = map_queries(
                deployment, self.name, transactions, after=self.settings.long_query_after,
                shows_text=self.settings.show_queries,
            )  # fmt: skip
        metrics = await self._read_metrics(values, resource)
        self._resource, self._last_answer = resource, now()
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

    async def _try(self, name: str, query: str) -> list[Row] | None:
        """The rows of a query; None where the server refuses or terminates it, which says nothing
        about what exists. Raises `ServerError` where the server does not answer."""
        try:
            return await self.client.read(name, query)
        except QueryError as error:
            self._problems[name] = str(error)
            return None

    async def _read_start(self, databases: Sequence[Row] | None) -> int:
        """When the process was started or, if that may not be read, its database `system`; the last
        known time while neither can be read."""
        if self.settings.jmx:
            for row in await self._try(QUERY_JMX, STARTED) or ():
                if (started := read_number(row.get("started"))) is not None:
                    self._has_jmx = True
                    return int(started) * 1000
        if self._has_jmx or databases is None:
            # The database starts after the process: their times do not compare.
            return self._started
        systems = [row for row in databases if row.get("name") == "system"]
        # In a cluster these are several servers, and an address does not tell which is which.
        return (read_time(systems[0].get("lastStartTime")) or 0) if len(systems) == 1 else 0

    async def _read_metrics(
        self, values: list[tuple[str, float, str]], server: Resource
    ) -> dict[str, dict[str, tuple[float, str]]]:
        """Add the metrics of the server to `values`; return those of its databases."""
        metrics: dict[str, dict[str, tuple[float, str]]] = {}
        if not self.settings.jmx:
            return metrics
        for row in await self._try(QUERY_JMX, HEAP) or ():
            used, limit = read_number(row.get("used")), read_number(row.get("max"))
            if used is not None:
                values.append(("heap", used, "By"))
                if limit and limit > 0:
                    values.append(("heap_share", used / limit, ""))
        if server.state.get("edition") != "enterprise":
            return metrics
        rows = await self._try(QUERY_JMX, METRICS) or ()
        for database, metric, value, unit in read_metrics(rows, self._databases):
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
        return Observation(
            resource=mark_unknown(
                before, reason, self._last_answer, status=UNREACHABLE,
                severity=severity_of(UNREACHABLE),
            ),
            is_reachable=False,
        )  # fmt: skip
