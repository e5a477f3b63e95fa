"""The errors of the Ray plugin. Their texts name neither the dashboard's address nor its token."""

from almenara.sdk import Unavailable


class DashboardError(Unavailable):
    """A dashboard gave no answer that can be used; the text has the reason."""


class MalformedAnswerError(DashboardError):
    """The answer is not what this endpoint of Ray returns."""


class MissingError(DashboardError):
    """This version of Ray has no such endpoint, or no such job or file exists."""


class AccessDeniedError(DashboardError):
    """The dashboard rejects the token, or the headers."""


class TimedOutError(DashboardError):
    """The dashboard gave no complete answer in time."""


class AnswerTooLargeError(DashboardError):
    """The answer is longer than `body_limit`."""
