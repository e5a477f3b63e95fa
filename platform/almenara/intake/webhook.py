"""Webhooks of any sender: JSON becomes one event by the paths of a mapping."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.config import IntakeSettings, WebhookMapping
from almenara.intake.body import decode_json, follow_path
from almenara.intake.errors import RefusedPushError
from almenara.intake.values import read_severity, read_time, shorten, write_text
from almenara.signals import Event, Severity

HEADER: Final = "header:"
DEFAULT_TYPE: Final = "webhook"
MAPPINGS: Final = {
    "github": WebhookMapping(
        id="header:x-github-delivery",
        type="header:x-github-event",
        type_prefix="github.",
        subject="repository.full_name",
    ),
    "gitlab": WebhookMapping(
        id="header:idempotency-key",
        type="object_kind",
        type_prefix="gitlab.",
        subject="project.path_with_namespace",
    ),
}
"""The mappings of senders with a signature, unless the configuration has one."""


def read_webhook(
    body: bytes, headers: Mapping[str, str], name: str, settings: IntakeSettings, received: int
) -> Sequence[Event]:
    """Return the event of a webhook; header names are in lower case. Raises `RefusedPushError`."""
    document = decode_json(body, object, settings.max_nesting)
    is_own = settings.mapping is not None
    mapping = settings.mapping or MAPPINGS.get(settings.signature or "", WebhookMapping())
    problems: list[str] = []

    def text(path: str) -> str:
        return write_text(_find(document, headers, path)) if path else ""

    identity = text(mapping.id)
    if mapping.id and not identity:
        if is_own:
            raise RefusedPushError(
                f"{mapping.id}: the webhook has no id there (mapping.id of the intake {name})."
            )
        problems.append(f"{mapping.id} is missing; the digest of the body is used as the id")
    moment = received
    if mapping.time:
        value = _find(document, headers, mapping.time)
        if (stamp := read_time(value)) is not None:
            moment = stamp
        else:
            problems.append(
                f"{mapping.time} {shorten(write_text(value))!r} is not a time; the time of arrival"
                " is used"
            )
    severity = Severity.INFO
    if word := text(mapping.severity):
        if (known := read_severity(word)) is not None:
            severity = known
        else:
            problems.append(f"{mapping.severity} {shorten(word)!r} is not a severity")
    return [
        Event(
            id=identity or hashlib.sha256(body).hexdigest(),
            source=f"webhook/{name}",
            type=mapping.type_prefix + (text(mapping.type) or DEFAULT_TYPE),
            subject=text(mapping.subject),
            time=moment,
            severity=severity,
            correlation=text(mapping.correlation) or None,
            data=msgspec.Raw(body),
            problem="; ".join(problems) or None,
        )
    ]


def _find(document: Any, headers: Mapping[str, str], path: str) -> Any:
    if path.startswith(HEADER):
        return headers.get(path.removeprefix(HEADER).lower())
    return follow_path(document, path)
