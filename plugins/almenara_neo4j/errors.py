"""Why a server cannot be observed, and what to do about it."""

from typing import Final

from neo4j.exceptions import AuthError, DriverError, Neo4jError

from almenara.sdk import AlmenaraError, describe_error
from almenara.sdk.servers import MAX_TEXT, describe_connection_error, find_cause
from almenara_neo4j.byte_limit import MAX_BYTES, ResponseTooLargeError

RATE_LIMIT: Final = "Neo.ClientError.Security.AuthenticationRateLimit"


class ServerError(AlmenaraError):
    """A server did not answer a query as it should."""


class RefusedError(ServerError):
    """The server refuses the user or the password."""


class QueryError(ServerError):
    """The server answered a query with an error; it can answer others."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


CODES: Final = {
    "Neo.ClientError.Security.Forbidden":
        "the user may not run {query}; grant it as the README of the plugin shows",
    "Neo.ClientError.Statement.AccessMode": "{query} writes, and only reading is allowed",
    "Neo.ClientError.Database.DatabaseNotFound": "{query}: the database does not exist",
    "Neo.TransientError.General.DatabaseUnavailable": "{query}: the database is not available",
    "Neo.ClientError.Procedure.ProcedureNotFound": "the server does not know {query}",
    "Neo.ClientError.Transaction.TransactionTimedOut":
        "{query} takes longer than {timeout:g} s and was terminated",
    "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration":
        "{query} takes longer than {timeout:g} s and was terminated",
}  # fmt: skip
"""What errors of a query mean, by their code
(https://neo4j.com/docs/status-codes/current/errors/all-errors/)."""


def translate_error(error: Exception, query: str, timeout: float) -> ServerError:
    """The error of a query, as a sentence that has no data; `query` names it for people."""
    if find_cause(error, ResponseTooLargeError) is not None:
        return ServerError(
            f"the response to {query} has more than {MAX_BYTES // 2**20} MiB; return fewer rows or"
            " shorter properties"
        )
    if isinstance(error, Neo4jError):
        code = error.code or ""
        if code == RATE_LIMIT:
            return RefusedError("too many sign-ins have failed; the server refuses any for a while")
        if code == "Neo.ClientError.Security.CredentialsExpired":
            return RefusedError("the password must be changed before it can be used")
        if isinstance(error, AuthError):
            return RefusedError("the server refuses the password; check user and password")
        if code in CODES:
            return QueryError(CODES[code].format(query=query, timeout=timeout), code)
        # As a text, the error has codes and the message twice.
        message = ServerError(error.message or code)
        return QueryError(f"{query}: {describe_error(message, MAX_TEXT)}", code)
    if reason := describe_connection_error(error):
        return ServerError(reason)
    if isinstance(error, TimeoutError) or find_cause(error, TimeoutError) is not None:
        return ServerError(f"no response within {timeout:g} s")
    if isinstance(error, DriverError | OSError):
        return ServerError(describe_error(error, MAX_TEXT))
    return ServerError(f"the response to {query} cannot be read: {describe_error(error, MAX_TEXT)}")
