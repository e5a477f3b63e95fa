"""The settings of the receivers of each kind."""

import re
from email.headerregistry import Address
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from almenara.config import Secret, parse_http_url

Positive = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
MAIL_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


class TrustSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every kind of receiver has that is reached over TLS."""

    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    verify: bool = True
    """Whether the certificate must be valid. Without that, any server can respond in its place."""


class SlackSettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """Slack, with the token of an app: one message for each group, which is edited in place."""

    token: Secret
    """Bot token (`xoxb-...`) with the scope `chat:write`."""
    channel: Text
    """Id of the channel (`C024BE91L`), which the app is a member of, or its name."""
    signing_secret: Secret | None = None
    """Signing secret of the app. With it, messages have buttons to acknowledge and to silence, for
    everyone in the channel; set the request URL of the app's interactivity to
    `<server.url>/alerts/callbacks/<name of the receiver>`."""
    broadcast: bool = False
    """Whether replies in the thread about new alerts are shown in the channel as well."""
    url: str = "https://slack.com/api"
    """Address of the Web API."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, "the receiver", "use token")


class SlackWebhookSettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """Slack, with an incoming webhook: a message for each notification."""

    url: Secret
    """Address of the incoming webhook."""

    def __post_init__(self) -> None:
        check_url(self.url)


class EmailSettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """E-mail over SMTP: one thread for each group."""

    host: Text
    """Name or address of the SMTP server."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """Port of the server. The default depends on `security`: 587, 465 or 25."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls` upgrades the connection and fails where the server cannot, `tls` encrypts from the
    start, `none` sends everything in the clear."""
    user: str | None = None
    """User for authentication."""
    password: Secret | None = None
    """Password for authentication."""
    sender: str = msgspec.field(name="from")
    """Address of the sender: `almenara@example.com`, or `Almenara <almenara@example.com>`."""
    to: Annotated[list[str], msgspec.Meta(min_length=1, max_length=50)]
    """Addresses of the recipients."""

    def __post_init__(self) -> None:
        for name, text in (("from", self.sender), *(("to", address) for address in self.to)):
            check_address(name, text)
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together; set both or none")
        if self.security == "none" and self.password is not None:
            raise ValueError(
                "password would be sent in the clear; set security to starttls or tls, or remove it"
            )


class WebhookSettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """A webhook: a POST request for each notification."""

    url: Secret
    """Address, `http://` or `https://`."""
    format: Literal["alertmanager", "cloudevents"] = "alertmanager"
    """Body of the request: version 4 of Alertmanager's webhook, or a CloudEvent in JSON."""
    secret: Secret | None = None
    """Key of the signature in `webhook-signature`, as in Standard Webhooks."""
    bearer: Secret | None = None
    """Token for the header `Authorization: Bearer`."""
    headers: dict[str, Secret] = {}
    """Further headers; each value may be a secret."""

    def __post_init__(self) -> None:
        check_url(self.url)
        for name in self.headers:
            if not HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name[:100]!r} is not the name of a header")


class PagerDutySettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """PagerDuty, Events API v2: one incident for each group, acknowledged and resolved with it."""

    routing_key: Secret
    """Integration key of the service."""
    url: str = "https://events.pagerduty.com/v2/enqueue"
    """Address of the API; `https://events.eu.pagerduty.com/v2/enqueue` for accounts in Europe."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, "the receiver", "use routing_key")


class TeamsSettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """Microsoft Teams, with the webhook of a workflow ("When a Teams webhook request is
    received")."""

    url: Secret
    """Address of the webhook."""

    def __post_init__(self) -> None:
        check_url(self.url)


class NtfySettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """Push notifications with ntfy."""

    topic: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    """Topic. Who knows it can read it, unless the server restricts access."""
    url: str = "https://ntfy.sh"
    """Address of the server."""
    token: Secret | None = None
    """Access token."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, "the receiver", "use token")


class AlertmanagerSettings(TrustSettings, kw_only=True, forbid_unknown_fields=True):
    """An Alertmanager, API v2: alerts are passed on, and it notifies."""

    url: str
    """Address of Alertmanager, without `/api/v2`."""
    bearer: Secret | None = None
    """Token for the header `Authorization: Bearer`."""
    user: str | None = None
    """User for basic authentication."""
    password: Secret | None = None
    """Password for basic authentication."""
    expires: Positive = 6 * 3600.0
    """Seconds after which Alertmanager considers an alert resolved that is not sent again; longer
    than `repeat_interval` of the route."""

    def __post_init__(self) -> None:
        parse_http_url(self.url, "the receiver", "use user and password")


class AppriseSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Any service of Apprise, in a process of its own that ends after each notification."""

    urls: Annotated[list[Secret], msgspec.Meta(min_length=1, max_length=20)]
    """Apprise URLs, such as `tgram://<token>/<chat>`: https://github.com/caronc/apprise/wiki."""


def check_url(url: Secret) -> None:
    """Raise `ValueError` for an address that cannot be requested, without showing it."""
    try:
        text = url.reveal()
    except OSError as error:
        raise ValueError(str(error)) from None
    parse_http_url(text, "the receiver", "put a token into headers or bearer")


def check_address(name: str, text: str) -> Address:
    """Return the parts of an e-mail address. Raises `ValueError`."""
    display, address = parseaddr(text)
    try:
        parsed = Address(display_name=display, addr_spec=address)
    except (ValueError, IndexError, UnicodeError):
        parsed = Address()
    is_plain = text.isprintable() and " " not in address and parsed.username and parsed.domain
    if not is_plain:
        raise ValueError(f"{name}: {text[:100]!r} is not an e-mail address")
    return parsed
