"""The HTTP plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from almenara.config import Secret, parse_http_url

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class CheckSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One URL that is asked for again and again."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """What people call it; no two checks share one."""
    url: str
    """Address, `http://` or `https://`, without user and password in it."""
    method: Literal["GET", "HEAD", "POST", "OPTIONS"] = "GET"
    """Method of the request."""
    headers: dict[str, Secret] = {}
    """Headers to send; each value may be a secret."""
    user: str | None = None
    """User for basic authentication."""
    password: Secret | None = None
    """Password for basic authentication."""
    bearer: Secret | None = None
    """Token for the header `Authorization: Bearer`."""
    every: Positive = 15.0
    """Seconds between requests."""
    timeout: Positive = 5.0
    """Seconds for the whole of a request, its body included."""
    expect: list[str] = msgspec.field(default_factory=lambda: ["200-399"])
    """Status codes that count as right: `200`, or a range such as `200-299`."""
    contains: str | None = None
    """Text that the body must hold."""
    matches: str | None = None
    """Regular expression that the body must match somewhere."""
    body_limit: Count = 1_048_576
    """Bytes of the body that are read at most, and looked at for `contains` and `matches`."""
    slow_after: Positive = 2.0
    """Seconds from which on a right answer counts as slow."""
    attempts: Count = 2
    """Failures in a row after which the check counts as down."""
    follow_redirects: bool = False
    """Whether redirects are followed, ten at most."""
    verify: bool = True
    """Whether the certificate must be valid. Without it nobody knows who answers."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    expiry_days: Annotated[float, msgspec.Meta(ge=0)] = 14.0
    """Days before the end of a certificate from which on it is warned of."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"the check {self.name}", "give them as user and password")
        for text in self.expect:
            codes(text)
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(
                    f"matches of the check {self.name} is not a regular expression: {error}"
                ) from None


def codes(text: str) -> range:
    """The status codes of `200` or `200-299`. Raises `ValueError`."""
    low, dash, high = text.partition("-")
    if not (low.isdigit() and (high.isdigit() if dash else True)):
        raise ValueError(f"expect must hold codes such as 200 or 200-299; it holds {text!r}")
    found = range(int(low), int(high or low) + 1)
    if not found or found[0] < 100 or found[-1] > 599:
        raise ValueError(f"expect must hold codes from 100 to 599, lower first; it holds {text!r}")
    return found


class HttpSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The URLs to check."""

    checks: list[CheckSettings] = []
    """The checks; without any the plugin does nothing."""
    at_once: Count = 50
    """Requests that may be under way at a time."""

    def __post_init__(self) -> None:
        names = [check.name for check in self.checks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"checks holds two checks named {name!r}; each needs its own name")
