"""The settings of the HTTP plugin."""

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec

from almenara.config import Secret, parse_http_url

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class CheckSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One URL that is requested at an interval."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """Name of the check; names are unique."""
    url: str
    """URL, `http://` or `https://`, without user and password."""
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
    """Seconds for the whole request, from name look-up to the end of the body."""
    expect: list[str] = msgspec.field(default_factory=lambda: ["200-399"])
    """Status codes that are expected: `200`, or a range such as `200-299`."""
    contains: str | None = None
    """Text that the body must contain."""
    matches: str | None = None
    """Regular expression that the body must match somewhere."""
    body_limit: Count = 1_048_576
    """Bytes of the body that are read, and searched for `contains` and `matches`."""
    slow_after: Positive = 2.0
    """Seconds after which an expected response counts as slow."""
    attempts: Count = 2
    """Failures in a row after which the check is down; slow or fast responses in a row after which
    it becomes slow or up again."""
    follow_redirects: bool = False
    """Whether redirects are followed, at most ten."""
    verify: bool = True
    """Whether the certificate must be valid. Without that, any server can respond in its place."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's (which
    `SSL_CERT_FILE` can replace)."""
    expiry_days: Annotated[float, msgspec.Meta(ge=0)] = 14.0
    """Days before the expiry of a certificate at which a warning is published."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"check {self.name}", "use user and password")
        for text in self.expect:
            parse_codes(text)
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(
                    f"matches of check {self.name} is not a regular expression: {error}"
                ) from None


def parse_codes(text: str) -> range:
    """The status codes of `200` or `200-299`. Raises `ValueError`."""
    low, dash, high = text.partition("-")
    if not (low.isdigit() and (high.isdigit() if dash else True)):
        raise ValueError(f"expect takes codes such as 200 or 200-299; {text!r} is not valid")
    codes = range(int(low), int(high or low) + 1)
    if not codes or codes[0] < 100 or codes[-1] > 599:
        raise ValueError(
            f"expect takes codes from 100 to 599, the lower first; {text!r} is not valid"
        )
    return codes


class HttpSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The URLs to check."""

    RENAMED: ClassVar[dict[str, str]] = {"at_once": "concurrency"}

    checks: list[CheckSettings] = []
    """The checks; without any, the plugin does nothing."""
    concurrency: Count = 50
    """Requests at the same time."""

    def __post_init__(self) -> None:
        names = [check.name for check in self.checks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two checks are named {name!r}; names must be unique")
