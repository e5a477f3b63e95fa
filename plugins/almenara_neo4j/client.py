"""Connections to servers over Bolt: read-only, bounded in time and rows, with plain errors."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import neo4j
from neo4j.auth_management import ClientCertificate

from almenara.sdk import finish_within, monotonic
from almenara.sdk.servers import Address
from almenara_neo4j.byte_limit import limited_bytes
from almenara_neo4j.errors import QueryError, RefusedError, translate_error
from almenara_neo4j.settings import DeploymentSettings
from almenara_neo4j.simulation import SimulatedClient
from almenara_neo4j.values import to_plain

CLOSE_TIMEOUT: Final = 1.0
USER_AGENT: Final = "almenara"
METADATA: Final = {"app": "almenara"}
"""Marks our transactions in `SHOW TRANSACTIONS` and in the query log."""
SYSTEM: Final = "system"
"""The database in which administrative commands run."""
REFUSED_PAUSE: Final = 30.0
"""Seconds without another attempt after a refused password: a server locks a user out after three,
and with it everyone who uses the same."""
MAX_ROWS: Final = 10_000

Row = Mapping[str, Any]


class Client(Protocol):
    """What answers queries."""

    async def read(
        self,
        name: str,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        database: str | None = SYSTEM,
        limit: int = MAX_ROWS,
    ) -> list[Row]:
        """Return at most `limit` rows of a query, with values of Python. Raises `ServerError`,
        which calls the query `name`."""

    async def close(self) -> None:
        """Close the connections."""


def make_client(
    address: Address, settings: DeploymentSettings, timeout: float | None = None
) -> Client:
    """The client of a server; `timeout` is that of the settings by default."""
    if settings.simulated is not None:
        return SimulatedClient(settings.simulated)
    return BoltClient(address, settings, timeout)


class BoltClient:
    """Connections to one server, opened when first used and again after an error."""

    def __init__(
        self, address: Address, settings: DeploymentSettings, timeout: float | None = None
    ) -> None:
        self.address, self._settings = address, settings
        self._timeout = settings.timeout if timeout is None else timeout
        self._driver: neo4j.AsyncDriver | None = None
        self._refused: tuple[float, str] | None = None
        """When and why the password was refused."""

    async def read(
        self,
        name: str,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        database: str | None = SYSTEM,
        limit: int = MAX_ROWS,
    ) -> list[Row]:
        """As `Client.read`."""
        self._check_refusal()
        try:
            if self._driver is None:
                self._driver = await asyncio.to_thread(self._open)
            # The driver has no limit for reading, and a frozen server sends nothing.
            async with asyncio.timeout(self._timeout + self._grace):
                with limited_bytes():
                    return await self._read(self._driver, query, parameters or {}, database, limit)
        except Exception as error:
            problem = translate_error(error, name, self._timeout)
            if isinstance(problem, RefusedError):
                self._refused = monotonic(), str(problem)
            if not isinstance(problem, QueryError):
                await self.close()
            raise problem from None
        except asyncio.CancelledError:
            await self.close()
            raise

    @property
    def _grace(self) -> float:
        """Seconds for the server to report that it terminated a query."""
        return min(self._timeout / 2, 1.0)

    async def _read(
        self,
        driver: neo4j.AsyncDriver,
        query: str,
        parameters: Mapping[str, Any],
        database: str | None,
        limit: int,
    ) -> list[Row]:
        async with driver.session(
            database=database,
            default_access_mode=neo4j.READ_ACCESS,
            fetch_size=min(limit + 1, 1_000),
        ) as session:
            statement = neo4j.Query(query, timeout=self._timeout, metadata=dict(METADATA))
            result = await session.run(statement, dict(parameters))
            rows: list[Row] = []
            async for record in result:
                rows.append(dict(zip(record.keys(), map(to_plain, record), strict=True)))
                if len(rows) >= limit:
                    break
            return rows

    def _check_refusal(self) -> None:
        """Raise what the last attempt raised, for some time after a refused password."""
        if self._refused is not None:
            refused_at, reason = self._refused
            if monotonic() - refused_at < REFUSED_PAUSE:
                raise RefusedError(reason)
            self._refused = None

    async def close(self) -> None:
        """Close all connections; a frozen server does not delay it."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                await finish_within(CLOSE_TIMEOUT, driver.close())
            except (OSError, TimeoutError, RuntimeError, neo4j.exceptions.DriverError):
                return

    def _open(self) -> neo4j.AsyncDriver:
        # In a thread, because it reads the files of secrets and certificates. The driver logs what
        # servers remark on a query, such as an unknown label, with the query, at each run of it.
        logging.getLogger("neo4j.notifications").setLevel(logging.ERROR)
        settings, options = self._settings, dict[str, Any]()
        if settings.uses_tls:
            files = settings.tls
            options["encrypted"] = True
            if files is not None and not files.verify:
                options["trusted_certificates"] = neo4j.TrustAll()
            elif files is not None and files.ca is not None:
                options["trusted_certificates"] = neo4j.TrustCustomCAs(str(files.ca))
            if files is not None and files.certificate is not None:
                options["client_certificate"] = ClientCertificate(
                    files.certificate, files.key, None
                )
        if settings.password is not None:
            options["auth"] = neo4j.basic_auth(settings.user, settings.password.reveal())
        return neo4j.AsyncGraphDatabase.driver(
            f"bolt://{self.address}",
            connection_timeout=self._timeout,
            connection_write_timeout=self._timeout,
            connection_acquisition_timeout=self._timeout,
            max_connection_pool_size=2,
            disable_auto_commit_retries=True,
            telemetry_disabled=True,
            user_agent=USER_AGENT,
            **options,
        )
