"""Parts of OTLP messages that requests of all kinds have: attributes, values, ids and times."""

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from almenara.intake.errors import RefusedPushError
from almenara.units import SECOND

NANOSECONDS: Final = 1_000
"""Nanoseconds of a microsecond."""
UNKNOWN_SERVICE: Final = "unknown_service"
LARGEST_NANOSECONDS: Final = 253_402_300_799 * SECOND * NANOSECONDS
DEEPEST_VALUE: Final = 64


def walk(
    request: Any, resources: str, scopes: str, items: str
) -> Iterable[tuple[dict[str, Any], dict[str, Any], Any]]:
    """Yield each item with the attributes of its resource, and with its scope."""
    for of_resource in getattr(request, resources):
        resource = read_attributes(of_resource.resource.attributes)
        for of_scope in getattr(of_resource, scopes):
            scope = getattr(of_scope, "scope", None)
            described = {} if scope is None else {"name": scope.name, "version": scope.version}
            for item in getattr(of_scope, items):
                yield resource, described, item


def optional(message: Any, field: str) -> Any:
    """Return an optional field, or one of several of which one is set; None where it is not."""
    if hasattr(message, "HasField") and not message.HasField(field):
        return None
    return getattr(message, field)


def read_number(value: Any) -> float | None:
    """Return a value as a finite number; None where it is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_attributes(attributes: Iterable[Any]) -> dict[str, Any]:
    """Return attributes by key; of a repeated key the last."""
    return {attribute.key: read_value(attribute.value) for attribute in attributes}


def read_value(value: Any, depth: int = 0) -> Any:
    """Return a value of any type as it is written in JSON. Raises `RefusedPushError`."""
    if depth > DEEPEST_VALUE:
        raise RefusedPushError(f"A value is nested deeper than {DEEPEST_VALUE}.")
    content: Any
    if hasattr(value, "WhichOneof"):
        field = value.WhichOneof("value")
        content = getattr(value, field) if field else None
    else:
        field, content = next(
            (
                (name, part)
                for name in value.__struct_fields__
                if (part := getattr(value, name)) is not None
            ),
            ("", None),
        )
    match field:
        case "array_value":
            return [read_value(part, depth + 1) for part in content.values]
        case "kvlist_value":
            return {part.key: read_value(part.value, depth + 1) for part in content.values}
        case "bytes_value":
            return content if isinstance(content, str) else base64.b64encode(content).decode()
        case "double_value":
            # JSON has no infinity.
            return content if isinstance(content, str) or math.isfinite(content) else str(content)
    return content


def read_id(value: bytes | str) -> str:
    """Return a trace or span id in lower-case hexadecimal; empty for an id of zeros."""
    text = value.hex() if isinstance(value, bytes) else value.lower()
    return text if text.strip("0") else ""


def read_time(nanoseconds: int, received: int) -> int:
    """Return the microseconds of a time; `received` where it is missing or out of range."""
    return nanoseconds // NANOSECONDS if 0 < nanoseconds <= LARGEST_NANOSECONDS else received


def service_of(resource: dict[str, Any]) -> str:
    """Return the name of the service that sent something."""
    return str(resource.get("service.name") or UNKNOWN_SERVICE)


def source_of(resource: dict[str, Any]) -> str:
    """Return the source of the events of a service."""
    return f"otel/{service_of(resource)}"


def write_labels(attributes: Mapping[str, Any]) -> str:
    """Return the attributes of a data point as the end of the name of its metric: `{a=b,c=d}`."""
    labels = ",".join(f"{key}={value}" for key, value in sorted(attributes.items()))
    return f"{{{labels}}}" if labels else ""
