"""The errors that callers tell apart, and how an error is written in one line."""

from typing import Final

from almenara.urls import redact_urls

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


def describe_error(error: BaseException, limit: int = LONGEST, *, with_type: bool = False) -> str:
    """Return an error as one line of at most `limit` characters; its type where it has no text.

    Credentials in URLs are redacted, since libraries put the URL of a request into their errors.
    `with_type` puts the type in front of errors that are not Almenara's own, for people who can
    read the code that raised it. Of a group the errors inside are described.
    """
    if isinstance(error, BaseExceptionGroup):
        inner = (describe_error(part, limit, with_type=with_type) for part in error.exceptions)
        return "; ".join(dict.fromkeys(inner))[:limit]
    name = type(error).__name__
    text = redact_urls(" ".join(str(error).split()))
    if with_type and text and not isinstance(error, AlmenaraError):
        text = f"{name}: {text}"
    text = make_encodable(text or name)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def make_encodable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which cannot be stored, sent or logged.

    Texts of plugins have them: names of files that are not UTF-8, and JSON with a lone `\\ud83d`.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
