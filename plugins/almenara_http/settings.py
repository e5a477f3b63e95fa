"""The settings of the HTTP plugin."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec

from almenara.config import Secret, parse_http_url
from almenara.sdk import compile_expression
from almenara_http.conditions import parse_condition
from almenara_http.maintenance import MaintenanceWindow

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class CheckSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One URL that is requested at an interval."""

    RENAMED: ClassVar[dict[str, str]] = {"attempts": "failure_threshold"}

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    """Name of the check; names are unique."""
    url: str
    """URL, `http://` or `https://`, without user and password."""
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    """Method of the request."""
    headers: dict[str, Secret] = {}
    """Headers to send; each value may be a secret."""
    body: Secret | None = None
    """Body to send, on one line; it may be a secret. Set its `content-type` in `headers`."""
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
    conditions: list[str] = []
    """What must hold for the response, such as `json items[0].state == "ok"` or
    `header content-type matches ^text/`: `json` with a path, `header` with a name, `body` or
    `version`; then `==`, `!=`, `<`, `<=`, `>`, `>=`, `contains`, `matches` or `exists`."""
    body_limit: Count = 1_048_576
    """Bytes of the body that are read, and searched for `contains`, `matches` and `conditions`."""
    slow_after: Positive = 2.0
    """Seconds after which an expected response counts as slow."""
    fast_below: Positive | None = None
    """Seconds below which a response counts as fast while the check is slow; 80 % of `slow_after`
    unless set."""
    failure_threshold: Count = 2
    """Failures in a row after which the check is down."""
    success_threshold: Count = 1
    """Expected responses in a row after which a check that is down is up again."""
    slow_threshold: Count = 3
    """Slow or fast responses in a row after which the check becomes slow or up."""
    maintenance: list[MaintenanceWindow] = []
    """Times at which the check is neither up nor down: requests are sent, failures do not count."""
    follow_redirects: bool = False
    """Whether redirects are followed, at most ten. Credentials are sent to the server of `url`
    only."""
    http2: bool = False
    """Whether HTTP/2 is offered to the server, which chooses (`https://` only)."""
    proxy: str | None = None
    """URL of the proxy for this check; empty for none. Unless set, that of the environment
    (`HTTPS_PROXY`, `NO_PROXY`)."""
    proxy_user: str | None = None
    """User at the proxy."""
    proxy_password: Secret | None = None
    """Password at the proxy."""
    verify: bool = True
    """Whether the certificate must be valid. Without that, any server can respond in its place."""
    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's (which
    `SSL_CERT_FILE` can replace)."""
    certificate: Path | None = None
    """File with the client certificate; it is read again when it changes."""
    key: Path | None = None
    """File with the private key of the client certificate, unless `certificate` contains it."""
    key_password: Secret | None = None
    """Password of an encrypted private key."""
    expiry_days: Annotated[float, msgspec.Meta(ge=0)] = 14.0
    """Days before the expiry of a certificate at which a warning is published, at most a quarter of
    its lifetime."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, f"check {self.name}", "use user and password")
        for text in self.expect:
            parse_codes(text)
        _check_expression(self.matches, f"matches of check {self.name}")
        for index, condition in enumerate(self.conditions):
            try:
                parse_condition(condition)
            except ValueError as error:
                raise ValueError(
                    f"conditions[{index}] of check {self.name}, {condition[:80]!r}: {error}"
                ) from None
        if self.fast_below is not None and self.fast_below > self.slow_after:
            raise ValueError(
                f"fast_below of check {self.name} is {self.fast_below:g} s, more than slow_after"
                f" ({self.slow_after:g} s)"
            )
        if self.key is not None and self.certificate is None:
            raise ValueError(f"check {self.name} has a key, but no certificate")
        if self.proxy:
            parse_http_url(
                self.proxy,
                f"the proxy of check {self.name}",
                "use proxy_user and proxy_password",
            )


def _check_expression(text: str | None, owner: str) -> None:
    try:
        compile_expression(text or "")
    except ValueError as error:
        raise ValueError(f"{owner}: {error}") from None


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
