"""Why a server cannot be observed, and what to do about it."""

from collections.abc import Iterable
from typing import Final

from valkey.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    MovedError,
    NoPermissionError,
    ResponseError,
    ValkeyError,
)

from almenara.config import redact_secrets
from almenara.sdk import AlmenaraError, Secret, describe_error
from almenara.sdk.servers import describe_connection_error

LONGEST_ERROR: Final = 4_000
SHOWN: Final = 200


class ServerError(AlmenaraError):
    """A server did not answer a command as it should."""


class CommandError(ServerError):
    """The server answered a command with an error; the connection can be used further."""


class ElsewhereError(CommandError):
    """The key of a command belongs to another node of the cluster."""


class MissingKeyError(CommandError):
    """The key of a command does not exist, or has another type."""


def translate_error(
    error: Exception, command: str, timeout: float, secrets: Iterable[Secret | None] = ()
) -> ServerError:
    """The error of a command, as a sentence that has no argument of it, though a server repeats
    the password."""

    def describe(cause: BaseException) -> str:
        # Before it is cut, or a part of a secret could remain.
        return redact_secrets(describe_error(cause, LONGEST_ERROR), secrets)[:SHOWN]

    if isinstance(error, BusyLoadingError):
        return CommandError("the server is loading its data into memory")
    if isinstance(error, NoPermissionError):
        return CommandError(
            f"the user may not run {command}; grant it as the README of the plugin shows"
        )
    if "NOAUTH" in str(error) or "Authentication required" in str(error):
        return ServerError("the server requires a password; set password")
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        return ServerError("the server refuses the password; check user and password")
    if isinstance(error, MovedError | AskError):
        return ElsewhereError("the key belongs to another node")
    if reason := describe_connection_error(error, LONGEST_ERROR):
        return ServerError(redact_secrets(reason, secrets)[:SHOWN])
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return ServerError(f"no response within {timeout:g} s")
    if isinstance(error, ResponseError):
        if "unknown command" in str(error).lower():
            return CommandError(f"the server does not know {command}")
        if "no such key" in str(error).lower() or str(error).startswith("WRONGTYPE"):
            return MissingKeyError("the key does not exist, or has another type")
        return CommandError(f"{command}: {describe(error)}")
    if isinstance(error, ValkeyError | OSError):
        return ServerError(describe(error))
    return ServerError(f"the response to {command} cannot be read: {describe(error)}")
