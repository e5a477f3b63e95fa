"""The errors of a request to an API server, which callers distinguish."""

from almenara.errors import AlmenaraError, Unavailable


class UnreachableError(Unavailable, ConnectionError):
    """No answer came from the API server; the text says why and what to do.

    It is a `ConnectionError` as well, so that whatever retries those retries it.
    """


class SilentError(UnreachableError):
    """A connection is established, and no data has arrived on it for too long."""


class ApiError(AlmenaraError):
    """The API server answered with an error: its HTTP status, and the reason of its `Status`."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason = status, reason


class ProtocolError(AlmenaraError):
    """An answer is not what the Kubernetes API promises; the text says what is wrong with it."""
