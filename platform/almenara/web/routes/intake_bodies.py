"""The bodies that intakes accept, as OpenAPI describes them. `almenara.intake` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

TEXT: Final = Schema(type=OpenAPIType.STRING)
ANY: Final = Schema(type=OpenAPIType.OBJECT)
TEXTS: Final = Schema(type=OpenAPIType.OBJECT, additional_properties=TEXT)

JSON: Final = "application/json"
CLOUDEVENT: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["specversion", "id", "source", "type"],
    properties={
        "specversion": Schema(type=OpenAPIType.STRING, enum=["1.0"]),
        "id": Schema(type=OpenAPIType.STRING, min_length=1),
        "source": Schema(type=OpenAPIType.STRING, min_length=1),
        "type": Schema(type=OpenAPIType.STRING, min_length=1),
        "subject": TEXT,
        "time": Schema(type=OpenAPIType.STRING, format="date-time"),  # type: ignore[arg-type]
        "severity": Schema(
            type=OpenAPIType.STRING, enum=["DEBUG", "INFO", "WARN", "ERROR", "FATAL"]
        ),
        "data": Schema(),
    },
)
ALERT: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["status"],
    properties={
        "status": Schema(type=OpenAPIType.STRING, enum=["firing", "resolved"]),
        "labels": TEXTS,
        "annotations": TEXTS,
        "startsAt": TEXT,
        "endsAt": TEXT,
        "fingerprint": TEXT,
    },
)
ALERTS: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["alerts"],
    properties={
        "alerts": Schema(type=OpenAPIType.ARRAY, items=ALERT),
        "externalURL": TEXT,
    },
)
CLOUDEVENTS_BODY: Final = {
    "application/cloudevents+json": CLOUDEVENT,
    "application/cloudevents-batch+json": Schema(type=OpenAPIType.ARRAY, items=CLOUDEVENT),
}
ALERTS_BODY: Final = {JSON: ALERTS}
JSON_BODY: Final = {JSON: Schema()}
OTLP_BODY: Final = {
    JSON: ANY,
    "application/x-protobuf": Schema(type=OpenAPIType.STRING, format="binary"),  # type: ignore[arg-type]
}


def describe_body(content: Mapping[str, Schema]) -> type[Operation]:
    """Return the class of an operation with a body of one of these content types."""

    @dataclass
    class PushOperation(Operation):
        """An operation whose handler reads the body itself, so that Litestar cannot describe it."""

        def __post_init__(self) -> None:
            media: dict[str, Any] = {
                name: OpenAPIMediaType(schema=schema) for name, schema in content.items()
            }
            self.request_body = RequestBody(content=media, required=True)

    return PushOperation
