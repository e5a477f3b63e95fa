"""The errors that callers tell apart, and how an error is written in one line."""

from typing import Final

LONGEST: Final = 500
"""Characters of an error that are shown; what a library reports can be a whole page."""


class AlmenaraError(Exception):
    """What Almenara raises on purpose. The text is for the person who reads it: what happened, to
    what, and what to do."""


class ConfigError(AlmenaraError, ValueError):
    """A setting is missing, unknown or wrong; the text names its path."""


class NotFound(AlmenaraError):  # noqa: N818
    """What was requested does not exist, or is outside the caller's scope: both look alike."""


class Forbidden(AlmenaraError):  # noqa: N818
    """The caller is known and lacks the right."""


class LimitExceeded(AlmenaraError):  # noqa: N818
    """A bound was reached; the text names it. The same request may succeed later."""


class Unavailable(AlmenaraError):  # noqa: N818
    """A part or an upstream system cannot serve now; the same request may succeed later."""


def describe_error(error: BaseException, limit: int = LONGEST) -> str:
    """Return an error as one line of at most `limit` characters; its type where it has no text.

    Of a group the errors inside are described, since the group's own text only counts them.
    """
    if isinstance(error, BaseExceptionGroup):
        inner = dict.fromkeys(describe_error(part, limit) for part in error.exceptions)
        return "; ".join(inner)[:limit]
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
