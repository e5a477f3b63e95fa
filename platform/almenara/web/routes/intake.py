"""The routes that senders push signals to; `almenara.intake` reads what they send."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Schema
from litestar.params import FromPath

from almenara.config import BUILTIN_INTAKES
from almenara.intake.errors import RefusedPushError
from almenara.intake.intakes import Intake, reader_of
from almenara.intake.otlp import OtlpReader
from almenara.intake.otlp_model import REQUESTS
from almenara.web.authorization import INTAKE
from almenara.web.routes.api.parameters import ACCESS_PROBLEMS, describe_problem
from almenara.web.routes.intake_bodies import (
    ALERTS_BODY,
    CLOUDEVENTS_BODY,
    JSON_BODY,
    OTLP_BODY,
    describe_body,
)
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

INTAKE_PARAMETER: Final = "intake"

IntakeRequest = Request[Any, Any, Any]
PUSH_PROBLEMS: Final = {
    **ACCESS_PROBLEMS,
    400: describe_problem("The body is not in the format; the detail has the field"),
    401: describe_problem("The token or the signature is missing or wrong"),
    403: describe_problem("The token is for another intake, or for none"),
    404: describe_problem("No such intake is configured"),
    413: describe_problem("The body is larger than the intake accepts"),
    415: describe_problem("The content type or encoding is not supported"),
    503: describe_problem("The intake is above its rate, or nothing can be stored at the moment"),
}


def describe(body: Mapping[str, Schema]) -> dict[str, Any]:
    """Return the options that all routes of the intake share, besides their authorization."""
    return {
        "tags": ["intake"], "status_code": 200, "request_max_body_size": None,
        "responses": PUSH_PROBLEMS, "operation_class": describe_body(body),
    }  # fmt: skip


class Accepted(msgspec.Struct):
    """The response to a push whose signals are durable."""

    signals: int


@post("/intake/cloudevents", opt=INTAKE, **describe(CLOUDEVENTS_BODY))
async def push_cloudevents(request: IntakeRequest, services: NamedDependency[Services]) -> Accepted:
    """Store CloudEvents in structured, batched or binary mode."""
    return await _push(request, services, "cloudevents")


@post("/intake/webhook/{name:str}", opt=INTAKE, **describe(JSON_BODY))
async def push_webhook(
    request: IntakeRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Accepted:
    """Store the JSON of a webhook as one event."""
    return await _push(request, services, "webhook", name)


@post("/intake/alertmanager", opt=INTAKE, **describe(ALERTS_BODY))
async def push_alertmanager(
    request: IntakeRequest, services: NamedDependency[Services]
) -> Accepted:
    """Store the alerts of an Alertmanager as events."""
    return await _push(request, services, "alertmanager")


@post("/intake/grafana", opt=INTAKE, **describe(ALERTS_BODY))
async def push_grafana(request: IntakeRequest, services: NamedDependency[Services]) -> Accepted:
    """Store the alerts of a Grafana as events."""
    return await _push(request, services, "grafana")


@post("/intake/otlp/v1/{kind:str}", opt=INTAKE, **describe(OTLP_BODY))
async def push_otlp(
    request: IntakeRequest, services: NamedDependency[Services], kind: FromPath[str]
) -> Response[bytes]:
    """Store what OpenTelemetry exports: log records, spans and metrics."""
    if kind not in REQUESTS:
        raise NotFoundException
    intake, headers = _find(request, services, "otlp", ""), _read_headers(request)
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    reader = OtlpReader(kind, content_type, intake.settings)
    with intake.admit():
        await intake.push(await _read_body(request, intake), headers, reader.read)
    intake.state.rejected += reader.rejected
    return Response(reader.response(), media_type=content_type)


@post("/intake/{kind:str}", opt=INTAKE, **describe(JSON_BODY))
async def push(
    request: IntakeRequest, services: NamedDependency[Services], kind: FromPath[str]
) -> Accepted:
    """Store what is pushed in a format of a plugin, such as `ray`."""
    if kind in BUILTIN_INTAKES:
        raise NotFoundException
    return await _push(request, services, kind)


async def _push(request: IntakeRequest, services: Services, kind: str, name: str = "") -> Accepted:
    intake, headers = _find(request, services, kind, name), _read_headers(request)
    with intake.admit():
        body = await _read_body(request, intake)
        return Accepted(await intake.push(body, headers, reader_of(intake, headers)))


def _read_headers(request: IntakeRequest) -> dict[str, str]:
    """Return the headers by lower-case name; values of a repeated one are joined."""
    headers = get_request_info(request).headers
    return {name: ", ".join(values) for name, values in headers.items()}


async def _read_body(request: IntakeRequest, intake: Intake) -> bytes:
    """Return the body as it was sent. Raises `RefusedPushError` beyond the limit of the intake."""
    body = await request.body()
    if len(body) > (limit := intake.settings.max_body_bytes):
        raise RefusedPushError(
            f"The body exceeds {limit} bytes (intake.{intake.name}.max_body_bytes).",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return body


def _find(request: IntakeRequest, services: Services, kind: str, name: str) -> Intake:
    """Return the intake that a request pushes to: that of its token, or of its address.

    Raises `RefusedPushError`.
    """
    context = get_auth_context(request)
    own = "" if context is None else context.identity.intake
    if not own:
        return services.intakes.find(kind, name or request.query_params.get(INTAKE_PARAMETER, ""))
    if services.intakes.has_signature(name):
        # The signature decides, whatever token is sent along.
        return services.intakes.find(kind, name)
    if name not in ("", own):
        raise RefusedPushError(f"The token is for the intake {own} only.", HTTPStatus.FORBIDDEN)
    try:
        return services.intakes.find(kind, own)
    except RefusedPushError:
        raise RefusedPushError(
            f"The token is for the intake {own}, which is not of the kind {kind}.",
            HTTPStatus.FORBIDDEN,
        ) from None


INTAKES: Final[list[HTTPRouteHandler]] = [
    push_cloudevents, push_webhook, push_alertmanager, push_grafana, push_otlp, push,
]  # fmt: skip
