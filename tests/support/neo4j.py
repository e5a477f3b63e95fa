"""A real Neo4j server for tests, of the Community Edition."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import neo4j
import pytest
from neo4j.exceptions import (
    AuthError,
    Neo4jError,
    ServiceUnavailable,
    SessionExpired,
    TransientError,
)

from support.paths import ROOT
from support.server_process import ServerProcess
from support.servers import free_port, wait_until

BUILD: Final = ROOT / "tests" / "neo4j_server" / "build-server"
START_PATIENCE: Final = 240.0


def _find() -> tuple[Path | None, str]:
    process = subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False)
    if process.returncode:
        return None, process.stderr.strip()
    return Path(process.stdout.strip()) / "neo4j-server", ""


PROGRAM, WHY_NOT = _find()
VERSION: Final = PROGRAM.parent.parent.name.removeprefix("neo4j-") if PROGRAM else ""
"""`NEO4J_VERSION` selects another than the default, once `make neo4j` has downloaded it."""
ENDS_COMPUTATIONS: Final = not VERSION.startswith("4.")
"""Whether a server terminates a query that reads nothing; 4.4 lets it run on."""
needs_neo4j = pytest.mark.skipif(PROGRAM is None, reason=WHY_NOT)


class Neo4jServer(ServerProcess):
    """A server on loopback; it keeps its port and its data when it is started again."""

    scheme = "bolt"

    def __init__(
        self, folder: Path, password: str = "", settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.port, self.password = folder, free_port(), password
        self.settings = {
            "dbms.security.auth_enabled": "true" if password else "false", **(settings or {})
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Self:
        assert PROGRAM is not None
        command = [PROGRAM, self.folder / "data", str(self.port)]
        command += [f"{name}={value}" for name, value in self.settings.items()]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.answers, "the Neo4j server", START_PATIENCE)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "server.log").read_text("utf-8")[-3_000:])
        try:
            self.call("RETURN 1")
        except AuthError:
            # A new server has the password `neo4j`, which must be changed.
            self._set_password()
            return False
        except (ServiceUnavailable, SessionExpired, TransientError, OSError):
            return False
        return True

    def _set_password(self) -> None:
        with self.driver(password="neo4j") as driver, driver.session(database="system") as session:
            session.run(
                "ALTER CURRENT USER SET PASSWORD FROM 'neo4j' TO $password", password=self.password
            ).consume()

    def driver(self, password: str | None = None, **options: Any) -> neo4j.Driver:
        auth = ("neo4j", password or self.password) if self.password else None
        return neo4j.GraphDatabase.driver(
            self.url, auth=auth, connection_timeout=5.0,
            warn_notification_severity="OFF", **options,
        )  # fmt: skip

    def call(self, query: str, database: str | None = None, **parameters: Any) -> list[Any]:
        """Return the rows of a query."""
        with self.driver() as driver, driver.session(database=database) as session:
            return [record.data() for record in session.run(query, parameters)]

    @contextlib.contextmanager
    def transaction(self, *queries: str) -> Iterator[neo4j.Transaction]:
        """An open transaction that has run some queries; it is rolled back."""
        with self.driver() as driver, driver.session() as session:
            transaction = session.begin_transaction()
            try:
                for query in queries:
                    transaction.run(query).consume()
                yield transaction
            finally:
                with contextlib.suppress(neo4j.exceptions.DriverError, Neo4jError, OSError):
                    transaction.close()
