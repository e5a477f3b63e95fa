"""Why a push is refused: the HTTP status and a sentence for the person who operates the sender."""

from http import HTTPStatus

from almenara.errors import AlmenaraError, LimitExceeded


class RefusedPushError(AlmenaraError):
    """A push that no retry makes acceptable; the text names the field and what is expected."""

    def __init__(self, detail: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.detail, self.status = detail, status


class IntakeBusyError(LimitExceeded):
    """The same push may succeed in `retry_after` seconds; nothing of it was reported as stored."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
