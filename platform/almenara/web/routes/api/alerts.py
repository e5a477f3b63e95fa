"""Alerts and silences as JSON, and what people do with them."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, Parameter

from almenara.alerting import SILENCE
from almenara.panels.builtin.alerts import list_alerts
from almenara.sdk.calendar import Calendar
from almenara.signals import now
from almenara.units import SECOND
from almenara.web.authorization import (
    ALL_SOURCES,
    OPERATOR,
    OPERATOR_OF_ALL_SOURCES,
    VIEWER,
    scoped_view,
)
from almenara.web.problems import BadParameterError
from almenara.web.routes.alert_actions import (
    acknowledge_alert,
    assign_alert,
    create_silence,
    end_silence,
    unacknowledge_alert,
)
from almenara.web.routes.api.models import format_api_time
from almenara.web.routes.api.parameters import (
    ALERT_PROBLEMS,
    COMMAND_PROBLEMS,
    PARAMETER_PROBLEMS,
    check_parameters,
)
from almenara.web.services import Services

MAX_BODY: Final = 16_384

StatusParameter = Annotated[str | None, Parameter(description="Only alerts with this status")]


class AlertItem(msgspec.Struct, kw_only=True):
    """An alert. Times are RFC 3339, in UTC."""

    rule: str
    fingerprint: str
    status: str
    severity: str
    summary: str
    since: str | None
    """Since when the condition holds."""
    started: str | None
    """When it fired."""
    ended: str | None
    state: dict[str, Any]
    """Labels, annotations, value, threshold, resource, receivers, who acknowledged it and who takes
    care of it."""


class SilenceItem(msgspec.Struct, kw_only=True):
    """A silence that has not ended."""

    id: str
    status: str
    matchers: list[str]
    author: str
    comment: str
    starts: str | None
    ends: str | None
    calendar: str
    """The times of the week at which it is active; empty for all."""


class AcknowledgeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of an acknowledgement."""

    comment: str = ""


class AssignBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of an assignment."""

    to: str
    """Who takes care of the alert; empty for no one."""


class SilenceBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a new silence."""

    matchers: list[str]
    comment: str
    seconds: Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)]
    """How long it lasts from now."""
    calendar: Calendar | None = None
    """The times of the week at which it is active."""


def _time(value: Any) -> str | None:
    return format_api_time(value) if isinstance(value, int) else None


async def _read_body(request: Request[Any, Any, Any], kind: Any) -> Any:
    body = await request.body()
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise BadParameterError(detail=f"The body is wrong: {error}") from None


@get("/api/alerts", opt=VIEWER, tags=["alerts"], responses=PARAMETER_PROBLEMS)
async def alerts(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    status: StatusParameter = None,
) -> list[AlertItem]:
    """List the alerts, the most important first; resolved ones for an hour."""
    check_parameters(request, {"status"})
    return [
        AlertItem(
            rule=alert.namespace,
            fingerprint=alert.name,
            status=alert.status,
            severity=alert.state.get("severity", "INFO"),
            summary=alert.state.get("annotations", {}).get("summary", ""),
            since=_time(alert.state.get("since")),
            started=_time(alert.state.get("started")),
            ended=_time(alert.state.get("ended")),
            state=alert.state,
        )
        for alert in list_alerts(scoped_view(services, request))
        if status is None or alert.status == status
    ]


@post("/api/alerts/{rule:str}/{fingerprint:str}/acknowledge", opt=OPERATOR, tags=["alerts"],
      status_code=204, responses=ALERT_PROBLEMS)  # fmt: skip
async def acknowledge(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    rule: FromPath[str],
    fingerprint: FromPath[str],
) -> None:
    """Acknowledge an alert until it resolves. The body may have a `comment`."""
    body = await _read_body(request, AcknowledgeBody)
    await acknowledge_alert(request, services, f"{rule}/{fingerprint}", body.comment)


@post("/api/alerts/{rule:str}/{fingerprint:str}/unacknowledge", opt=OPERATOR, tags=["alerts"],
      status_code=204, responses=ALERT_PROBLEMS)  # fmt: skip
async def unacknowledge(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    rule: FromPath[str],
    fingerprint: FromPath[str],
) -> None:
    """Take an acknowledgement back."""
    await unacknowledge_alert(request, services, f"{rule}/{fingerprint}")


@post("/api/alerts/{rule:str}/{fingerprint:str}/assign", opt=OPERATOR, tags=["alerts"],
      status_code=204, responses=ALERT_PROBLEMS)  # fmt: skip
async def assign(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    rule: FromPath[str],
    fingerprint: FromPath[str],
) -> None:
    """Assign an alert to the person in `to` of the body, or to no one."""
    body = await _read_body(request, AssignBody)
    await assign_alert(request, services, f"{rule}/{fingerprint}", body.to)


@get("/api/silences", opt=ALL_SOURCES, tags=["alerts"], responses=PARAMETER_PROBLEMS)
async def silences(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> list[SilenceItem]:
    """List the silences that have not ended."""
    check_parameters(request, set())
    return [
        SilenceItem(
            id=silence.name,
            status=silence.status,
            matchers=silence.state["matchers"],
            author=silence.state["author"],
            comment=silence.state["comment"],
            starts=_time(silence.state["starts"]),
            ends=_time(silence.state["ends"]),
            calendar=silence.state.get("calendar", ""),
        )
        for silence in scoped_view(services, request).resources.of_kind(SILENCE)
        if not silence.deleted
    ]


@post("/api/silences", opt=OPERATOR_OF_ALL_SOURCES, tags=["alerts"], status_code=201,
      responses=COMMAND_PROBLEMS)  # fmt: skip
async def add_silence(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> dict[str, str]:
    """Create a silence from `matchers`, a `comment`, `seconds` and a `calendar`; returns its id."""
    body = await _read_body(request, SilenceBody)
    ends = now() + int(body.seconds * SECOND)
    try:
        identity = await create_silence(
            request, services, body.matchers, body.comment, ends, calendar=body.calendar
        )
    except ValueError as error:
        raise BadParameterError(detail=str(error)) from None
    return {"id": identity}


@post("/api/silences/{silence_id:str}/end", opt=OPERATOR_OF_ALL_SOURCES, tags=["alerts"],
        status_code=204, responses=ALERT_PROBLEMS)  # fmt: skip
async def remove_silence(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    silence_id: FromPath[str],
) -> None:
    """End a silence."""
    await end_silence(request, services, silence_id)


ALERTS: Final = [
    alerts, acknowledge, unacknowledge, assign, silences, add_silence, remove_silence
]  # fmt: skip
