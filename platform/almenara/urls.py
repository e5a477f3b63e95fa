"""URLs in texts that people read, without their credentials; and paths of this site."""

import re
from typing import Final
from urllib.parse import urlsplit

URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s\"'<>`|\\]+")
TRAILING: Final = ".,;:!?)]}"
"""Characters at the end of a URL that rather belong to the sentence around it."""
REDACTED: Final = "***"


def redact_urls(text: str) -> str:
    """Return a text without the credentials in its URLs: the user information and the values of
    queries and fragments are `***`.

    Names of query parameters stay, because they help to find the setting. All values go, because
    the name of a parameter does not tell whether its value is a secret.
    """
    return URL.sub(lambda match: _redact(match[0]), text)


def _redact(url: str) -> str:
    bare = url.rstrip(TRAILING)
    end = url[len(bare) :]
    scheme, _, rest = bare.partition("://")
    at = min((index for mark in "?#" if (index := rest.find(mark)) >= 0), default=len(rest))
    location, parameters = rest[:at], rest[at:]
    if "@" in location:
        # A password may contain `/`, which a parser would take for the start of the path.
        location = f"{REDACTED}@{location.rpartition('@')[2]}"
    return f"{scheme}://{location}{_redact_parameters(parameters)}{end}"


def _redact_parameters(text: str) -> str:
    """Redact `?a=b&c#d`: what follows each `=`, and each part without one."""
    parts = re.split(r"([?#&;])", text)
    return "".join(
        part
        if part in ("", "?", "#", "&", ";")
        else f"{name}={REDACTED}"
        if (name := part.partition("=")[0]) != part
        else REDACTED
        for part in parts
    )


def local_path(text: str) -> str:
    """Return a path of this site to continue with; `/` for anything else (open redirects)."""
    parts = urlsplit(text)
    is_path = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.netloc
    return text if is_path and text.isprintable() and "\\" not in text else "/"
