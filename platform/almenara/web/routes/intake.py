"""The routes that senders push signals to; `almenara.intake` reads what they send."""

from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from almenara.config import IntakeKind
from almenara.intake.errors import RefusedPushError
from almenara.intake.intakes import Intake, reader_of
from almenara.intake.otlp import OtlpReader
from almenara.intake.otlp_model import REQUESTS
from almenara.web.authorization import INTAKE
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

INTAKE_PARAMETER: Final = "intake"

IntakeRequest = Request[Any, Any, Any]


class Accepted(msgspec.Struct):
    """The response to a push whose signals are durable."""

    signals: int


@post("/intake/cloudevents", opt=INTAKE, include_in_schema=False, status_code=200,
      request_max_body_size=None)  # fmt: skip
async def push_cloudevents(request: IntakeRequest, services: NamedDependency[Services]) -> Accepted:
    """Store CloudEvents in structured, batched or binary mode."""
    return await _push(request, services, "cloudevents")


@post("/intake/webhook/{name:str}", opt=INTAKE, include_in_schema=False, status_code=200,
      request_max_body_size=None)  # fmt: skip
async def push_webhook(
    request: IntakeRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Accepted:
    """Store the JSON of a webhook as one event."""
    return await _push(request, services, "webhook", name)


@post("/intake/alertmanager", opt=INTAKE, include_in_schema=False, status_code=200,
      request_max_body_size=None)  # fmt: skip
async def push_alertmanager(
    request: IntakeRequest, services: NamedDependency[Services]
) -> Accepted:
    """Store the alerts of an Alertmanager as events."""
    return await _push(request, services, "alertmanager")


@post("/intake/grafana", opt=INTAKE, include_in_schema=False, status_code=200,
      request_max_body_size=None)  # fmt: skip
async def push_grafana(request: IntakeRequest, services: NamedDependency[Services]) -> Accepted:
    """Store the alerts of a Grafana as events."""
    return await _push(request, services, "grafana")


@post("/intake/otlp/v1/{kind:str}", opt=INTAKE, include_in_schema=False, status_code=200,
      request_max_body_size=None)  # fmt: skip
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


async def _push(
    request: IntakeRequest, services: Services, kind: IntakeKind, name: str = ""
) -> Accepted:
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


def _find(request: IntakeRequest, services: Services, kind: IntakeKind, name: str) -> Intake:
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
    push_cloudevents, push_webhook, push_alertmanager, push_grafana, push_otlp,
]  # fmt: skip
