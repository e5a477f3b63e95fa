"""Secrets: how they are read, and how they stay out of every text that is shown or logged."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from almenara.urls import REDACTED

CUT: Final = "\u2026"
"""What a text that was cut ends with."""
SHORTEST_PART: Final = 4
"""Characters of a secret that are redacted at the end of a cut text; fewer may be anything."""

CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")
ENVIRONMENT_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
"""Names of variables as people choose them. Any other text may be the secret itself, in the wrong
place, and is not shown."""


class Secret:
    """A password, token or key whose value is never shown.

    In the configuration it is `{env: NAME}` or `{file: PATH}`, or the value itself. Printing,
    formatting, comparing or encoding a secret never shows its value; only `reveal` returns it. A
    file is read again on each call, so that a rotated secret takes effect without a restart.
    """

    __slots__ = ("_reveal", "_source")

    def __init__(self, reveal: Callable[[], str], source: str = "set") -> None:
        self._reveal, self._source = reveal, source

    @classmethod
    def of(cls, value: str) -> Self:
        """Return a secret with a value that is already known."""
        return cls(lambda: value)

    @classmethod
    def parse(cls, setting: Any) -> Self:
        """Return the secret that a setting describes.

        Raises `ValueError`, whose text never contains the value.
        """
        if isinstance(setting, dict) and len(setting) == 1:
            ((kind, location),) = setting.items()
            if kind == "env" and isinstance(location, str):
                is_name = ENVIRONMENT_NAME.fullmatch(location)
                origin = f"the environment variable {location if is_name else 'named here'}"
                value = os.environ.get(location, "").strip()
                if not value:
                    raise ValueError(f"{origin} is not set")
                _check_single_line(value, origin)
                return cls(lambda: value, f"from {origin}")
            if kind == "file" and isinstance(location, str):
                path = Path(location).expanduser()
                # A text without a folder may be the secret itself, put in the wrong place.
                origin = f"the file {path}" if "/" in location else "the file named here"
                _read_secret_file(path, origin)
                return cls(lambda: _reveal_file(path, origin), f"from {origin}")
        if isinstance(setting, float | bool):
            raise ValueError("a secret that looks like a number or a boolean must be in quotes")  # noqa: TRY004
        if isinstance(setting, str | int):
            value = str(setting).strip()
            _check_single_line(value, "the value")
            return cls.of(value)
        raise ValueError("a secret is `{env: NAME}`, `{file: PATH}` or a text")

    def reveal(self) -> str:
        """Return the value. Raises `OSError` if its file can no longer be read."""
        return self._reveal()

    def __repr__(self) -> str:
        return f"Secret({self._source})"

    def __bool__(self) -> bool:
        return True


def _check_single_line(value: str, origin: str) -> None:
    # Libraries refuse a header or a password with a line break, and show it in their error.
    if CONTROL_CHARACTER.search(value):
        raise ValueError(
            f"{origin} contains a line break or another control character; a secret is one line"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{origin} is not valid Unicode") from None


def _read_secret_file(path: Path, origin: str) -> str:
    """Return the line in a secret's file. Raises `ValueError` that does not contain it."""
    try:
        value = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{origin} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{origin} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{origin} cannot be read: the path is not valid") from None
    if not value:
        raise ValueError(f"{origin} is empty")
    _check_single_line(value, origin)
    return value


def _reveal_file(path: Path, origin: str) -> str:
    try:
        return _read_secret_file(path, origin)
    except ValueError as error:
        raise OSError(str(error)) from None


def parse_http_url(url: str, owner: str, credentials_hint: str) -> SplitResult:
    """Return the parts of an `http://` or `https://` URL without credentials.

    `owner` names what the URL belongs to, and `credentials_hint` says where a user name or password
    belongs instead. Raises `ValueError`.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(
            f"url of {owner} must start with http:// or https:// and name a host; a port, if any,"
            " is between 1 and 65535"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"url of {owner} must not contain a user name or password; {credentials_hint}"
        )
    return parts


def redact_secrets(text: str, secrets: Iterable[Secret | None]) -> str:
    """Return the text with `***` in place of each secret, also where Python has escaped it, and
    where the text was cut within one."""
    for secret in secrets:
        if secret is None:
            continue
        with contextlib.suppress(OSError):
            value = secret.reveal()
            for form in (value, repr(value)[1:-1], repr(value.encode())[2:-1]):
                if form:
                    text = _redact_end(text.replace(form, REDACTED), form)
    return text


def _redact_end(text: str, secret: str) -> str:
    """Redact the beginning of a secret in front of the mark of a cut text."""
    if not text.endswith(CUT):
        return text
    whole = text.removesuffix(CUT)
    for length in range(min(len(secret), len(whole)), SHORTEST_PART - 1, -1):
        if whole.endswith(secret[:length]):
            return f"{whole[:-length]}{REDACTED}{CUT}"
    return text
