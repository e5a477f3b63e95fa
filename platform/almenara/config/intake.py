"""The settings of the intake: signals that senders push over HTTP."""

import re
from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec

from almenara.config.common import Count, Positive
from almenara.config.secrets import Secret

BUILTIN_INTAKES: Final = ("cloudevents", "webhook", "alertmanager", "grafana", "otlp")
"""Kinds of intakes without a plugin."""
INTAKE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class WebhookMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the fields of an event are in the JSON of a webhook.

    A path has dots between names and indexes: `commits.0.id`. `header:x-request-id` is a header of
    the request.
    """

    id: str = ""
    """Path of the id. Requests with the same id are one event. Without a path, requests with the
    same body are."""
    type: str = ""
    """Path of the type, one of a few values without ids; without a path, or where it is empty, the
    type is `webhook`."""
    type_prefix: str = ""
    """Text in front of the type, such as `ci.`."""
    subject: str = ""
    """Path of the subject."""
    time: str = ""
    """Path of the time: RFC 3339, or a number since the Unix epoch in seconds, milliseconds,
    microseconds or nanoseconds. Without it, the time of arrival is used."""
    severity: str = ""
    """Path of the severity, such as `WARN` or `critical`; without it, the severity is INFO."""
    correlation: str = ""
    """Path of the id that the events of one request, story or job share."""


class IntakeSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One intake: what its sender pushes, and its limits."""

    kind: str
    """What the sender pushes, and so its address: `cloudevents`, `alertmanager`, `grafana`, or a
    kind of a plugin, such as `ray`, at `/intake/<kind>`; `webhook` at `/intake/webhook/<name>`;
    `otlp` for OpenTelemetry, with the endpoint `/intake/otlp`."""
    mapping: WebhookMapping | None = None
    """Fields of the events, only with the kind `webhook`. The default fits `signature`."""
    signature: Literal["github", "gitlab"] | None = None
    """Signature of the webhook, which is checked in place of a token."""
    secret: Secret | None = None
    """Secret of the signature, as entered in GitHub or GitLab."""
    rate_limit: Positive = 1_000.0
    """Sustained signals per second; beyond it, requests get status 503 with `Retry-After`."""
    burst: Count = 10_000
    """Signals above the rate that may be pushed at once."""
    max_body_bytes: Count = 1024**2
    """Maximum size of a request's body as it is sent; a larger one gets status 413."""
    max_decompressed_bytes: Count = 8 * 1024**2
    """Maximum size of a body after decompression."""
    max_signals: Count = 5_000
    """Maximum signals of one request."""
    max_nesting: Annotated[int, msgspec.Meta(ge=1, le=200)] = 64
    """Maximum depth of objects and lists in a body."""

    def __post_init__(self) -> None:
        if (self.signature is None) is not (self.secret is None):
            raise ValueError("signature and secret must be set together")
        if self.kind != "webhook" and (self.mapping is not None or self.signature is not None):
            raise ValueError("mapping and signature are settings of the kind `webhook`")


def check_intake_names(names: Iterable[str]) -> None:
    """Raise `ValueError` for a name that cannot be a part of an address and of an origin."""
    for name in names:
        if INTAKE_NAME.fullmatch(name) is None:
            raise ValueError(
                f"intake: {name[:80]!r} is not a name; use lower-case letters, digits, - and _, at"
                " most 63, and a letter or digit first"
            )
