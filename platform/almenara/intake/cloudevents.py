"""CloudEvents over HTTP: structured, batched and binary mode.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from almenara.cloudevents import CloudEventError, from_binary, parse_structured
from almenara.config import IntakeSettings
from almenara.intake.body import check_nesting, decode_json
from almenara.intake.errors import RefusedPushError
from almenara.signals import Event

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
VERSION_HEADER: Final = "ce-specversion"


def read_events(
    body: bytes, headers: Mapping[str, str], settings: IntakeSettings, received: int
) -> Sequence[Event]:
    """Return the events of a request; header names are in lower case.

    Raises `RefusedPushError` if any event is invalid.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == BATCH:
        events = decode_json(body, list[msgspec.Raw], settings.max_nesting)
        return [
            _read_structured(bytes(raw), f"[{index}]: ", received)
            for index, raw in enumerate(events)
        ]
    if content_type == STRUCTURED:
        check_nesting(body, settings.max_nesting)
        return [_read_structured(body, "", received)]
    if VERSION_HEADER in headers:
        return [_read_binary(body, content_type, headers, settings, received)]
    raise RefusedPushError(
        f"Content-Type must be {STRUCTURED} or {BATCH}; in binary mode the header {VERSION_HEADER}"
        " is required.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )


def _read_structured(text: bytes, place: str, received: int) -> Event:
    try:
        return parse_structured(text, received=received)
    except CloudEventError as error:
        raise RefusedPushError(f"{place}{error}.") from None


def _read_binary(
    body: bytes,
    content_type: str,
    headers: Mapping[str, str],
    settings: IntakeSettings,
    received: int,
) -> Event:
    data: Any = None
    raw: bytes | None = None
    if content_type in ("", "application/json") or content_type.endswith("+json"):
        if body:
            decode_json(body, object, settings.max_nesting)
            data = msgspec.Raw(body)
    else:
        data = body.decode("utf-8", "replace")
        raw = None if content_type.startswith("text/") else body
    try:
        event = from_binary(headers, data, received=received)
    except CloudEventError as error:
        raise RefusedPushError(f"{error}.") from None
    return event if raw is None else msgspec.structs.replace(event, raw=raw)
