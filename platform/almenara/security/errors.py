"""Why a request is refused: the HTTP status and a sentence for the person who reads it."""

from http import HTTPStatus
from typing import ClassVar

from almenara.errors import AlmenaraError, Forbidden, LimitExceeded, Unavailable


class AuthError(AlmenaraError):
    """A request that is refused before anything answers it."""

    status: ClassVar[HTTPStatus] = HTTPStatus.FORBIDDEN

    def __init__(self, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.detail, self.retry_after = detail, retry_after
        """`retry_after` is in seconds; 0 where a retry does not help."""

    @property
    def title(self) -> str:
        return self.status.phrase


class InvalidRequest(AuthError):  # noqa: N818
    """Headers or parameters of the request contradict each other or are malformed."""

    status = HTTPStatus.BAD_REQUEST


class Unauthenticated(AuthError):  # noqa: N818
    """The request carries no credentials, or invalid ones."""

    status = HTTPStatus.UNAUTHORIZED


class AccessDenied(AuthError, Forbidden):  # noqa: N818
    """The caller is known and lacks the role or the right."""

    status = HTTPStatus.FORBIDDEN


class TooManyAttempts(AuthError, LimitExceeded):  # noqa: N818
    """The address sent too many wrong secrets."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class AuthUnavailable(AuthError, Unavailable):  # noqa: N818
    """The provider, the cluster or this process cannot verify the caller at the moment."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
