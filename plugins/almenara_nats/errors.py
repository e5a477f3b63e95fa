"""Errors of NATS: the plugin's own, and how those of the client library are described."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nats.errors import ConnectionClosedError, Error as NatsError, NoRespondersError
from nats.js.errors import APIError, Error as JetStreamError, NoStreamResponseError, NotFoundError

from almenara.errors import Unavailable, describe_error

JETSTREAM_DISABLED: Final = frozenset((10039, 10076))
"""JSNotEnabledForAccountErr and JSNotEnabledErr, of nats-server's server/errors.json."""

NO_LEADER: Final = frozenset((10008, 10009))
"""JSClusterNotAvailErr and JSClusterNotLeaderErr: most servers of the cluster, or of those that
store a stream, are not reachable."""
NO_LEADER_REMEDY: Final = "Check that most servers of the cluster run"
SUBJECTS_OVERLAP: Final = 10065
"""JSStreamSubjectOverlapErr."""
MANAGEMENT: Final = (".STREAM.CREATE.", ".STREAM.UPDATE.", ".STREAM.DELETE.")
"""Requests of `almenara streams apply`, which the permissions of other commands leave out."""


class NatsUnavailableError(Unavailable, ConnectionError):
    """No server is reachable, or the connection was lost; the text names the server and the
    reason."""


class PermissionDeniedError(Unavailable):
    """The server denied publishing or subscribing to a subject; the text names it."""


def describe_nats_error(error: BaseException) -> str:
    """Return an error of the client library in one line, with words where it has none."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(describe_nats_error(part) for part in error.exceptions))
    if isinstance(error, NoRespondersError | NoStreamResponseError):
        return "JetStream does not respond on this account"
    if isinstance(error, APIError):
        if error.description:
            return f"{error.description} (code {error.err_code or error.code})"
        return "JetStream does not respond on this account"
    text = describe_error(error).removeprefix("nats: ")
    if isinstance(error, TimeoutError) and text in ("TimeoutError", "timeout"):
        return "no response in time"
    return text


def is_jetstream_disabled(error: BaseException) -> bool:
    """Whether an error means that the server or the account has no JetStream."""
    if isinstance(error, APIError):
        return error.err_code in JETSTREAM_DISABLED or (error.code is None and not error.err_code)
    return isinstance(error, NoRespondersError | NoStreamResponseError)


def suggest_jetstream_remedy(error: BaseException) -> str:
    """Return what to do about an error of a JetStream request."""
    if isinstance(error, PermissionDeniedError):
        if any(request in str(error) for request in MANAGEMENT):
            return "Run this command as a user that may create and update streams"
        return "Allow it for this user; the plugin's README lists the permissions"
    if is_jetstream_disabled(error):
        return "Enable JetStream on the server and for this account"
    if isinstance(error, TimeoutError):
        return "Check that the JetStream cluster has a leader"
    if isinstance(error, APIError) and error.err_code in NO_LEADER:
        return f"JetStream has no leader. {NO_LEADER_REMEDY}"
    if isinstance(error, APIError) and error.err_code == SUBJECTS_OVERLAP:
        return "Another stream stores the subject; set another one, or delete that stream"
    if isinstance(error, ConnectionClosedError):
        return "The connection is opened again; check that the servers run"
    return "Check the server's log"


def suggest_connection_remedy(text: str) -> str:
    """Return what to do about the text of an error of connecting."""
    low = text.lower()
    if "authorization" in low or "authentication" in low:
        return "Check credentials, nkey, user and password, or token."
    if "does not offer tls" in low:
        return "Enable TLS on the server, or use nats:// without tls."
    if "certificate" in low or "ssl" in low or "tls" in low:
        return "Check tls.ca, tls.certificate, tls.key and tls.hostname."
    return "Check that it runs and that the servers setting is right."


@contextmanager
def translated_errors(stream: str) -> Iterator[None]:
    """Raise `NatsUnavailableError`, with what to do, for the errors of the client library."""
    try:
        yield
    except NatsUnavailableError:
        raise
    except (NotFoundError, NoStreamResponseError) as error:
        raise NatsUnavailableError(
            f"the stream {stream} does not respond ({describe_nats_error(error)}). Create it with"
            " `almenara streams apply`, or check that its servers run"
        ) from error
    except APIError as error:
        raise NatsUnavailableError(
            f"NATS refuses a request about the stream {stream}: {describe_nats_error(error)}."
            f" {suggest_jetstream_remedy(error)}"
        ) from error
    except (NatsError, JetStreamError, PermissionDeniedError, TimeoutError, OSError) as error:
        raise NatsUnavailableError(
            f"the stream {stream} cannot be used: {describe_nats_error(error)}."
            f" {suggest_jetstream_remedy(error)}"
        ) from error
